"""Published MVPFormer weights, as data. Imports nothing heavy.

Licences, restriction and parameter counts are as in IBM's README and on the hub's pages when this list was written (2026; the page of mvpformer-s-swec
could not be read, its numbers are those of its siblings). Sizes of downloads follow from the parameters in float32; those of IBM's files, whose share
lists none, are estimates. The page decides. All of them are for research only, not for diagnosis.
"""

from dataclasses import dataclass

from core_runtime.models import Published

RESEARCH_ONLY = "For research only, not for diagnosis."
LICENCE = "Apache-2.0; research only: the authors exclude diagnostic use"
_IBM = "IBM/multi-variate-parallel-transformer on GitHub (its README links the share)"


@dataclass(frozen=True, kw_only=True)
class PublishedWeights(Published):
    """One published MVPFormer.

    Attributes:
        parameters: approximate number.
        forecast, detect: which of our verbs take it; those without either are for training.
    """

    parameters: str = ""
    forecast: bool = False
    detect: bool = False


def _ibm_base(size: str, parameters: str, download: str) -> PublishedWeights:
    return PublishedWeights(
        name=f"ibm-{size}-base",
        holds=f"pre-trained on SWEC, generative head, {parameters} parameters; for forecast",
        licence=LICENCE,
        size=download,
        source=_IBM,
        needs=f"its file by hand: {_IBM}; then 'ieeg models convert FILE'",
        parameters=parameters,
        forecast=True,
    )


def _ibm_head(size: str, parameters: str) -> PublishedWeights:
    return PublishedWeights(
        name=f"ibm-{size}-swec",
        holds=f"seizure detector (LoRA and head, beside the base), {parameters} parameters; for detect",
        licence=LICENCE,
        size="a few MB",
        source=_IBM,
        needs=f"two files by hand, base and head: {_IBM}; then 'ieeg models convert HEAD --base BASE'",
        parameters=parameters,
        detect=True,
    )


def _hub(size: str, kind: str, holds: str, *, detect: bool = False) -> PublishedWeights:
    parameters, download = {"s": ("74 M", "0.3 GB"), "m": ("1.2 B", "5 GB")}[size]
    name = f"mvpformer-{size}-{kind}"
    use = "training"
    if detect:
        use = "detect"
    return PublishedWeights(
        name=name,
        holds=f"{holds}, {parameters} parameters; for {use}",
        licence=LICENCE,
        size=download,
        source=f"braindecode/{name}",
        files=("model.safetensors",),
        needs=f"network for 'ieeg models get {name}', or its folder for 'ieeg models convert'",
        parameters=parameters,
        detect=detect,
    )


PUBLISHED: tuple[PublishedWeights, ...] = (
    _ibm_base("s", "75 M", "0.3 GB"),
    _ibm_head("s", "75 M"),
    _ibm_base("m", "1.2 B", "5 GB"),
    _ibm_head("m", "1.2 B"),
    _hub("s", "pretrained", "backbone of ibm-s-base; its head is random, to be trained"),
    _hub("s", "swec", "seizure detector, LoRA merged", detect=True),
    _hub("s", "mayo", "detector of pathological activity in 3 s clips (MAYO), LoRA merged"),
    _hub("s", "fnusa", "detector of pathological activity in 3 s clips (FNUSA), LoRA merged"),
    _hub("m", "pretrained", "backbone of ibm-m-base; its head is random, to be trained"),
    _hub("m", "swec", "seizure detector, LoRA merged", detect=True),
)
