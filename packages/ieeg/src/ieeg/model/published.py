"""Published MVPFormer weights, as data. Imports nothing heavy.

Licences, restriction and parameter counts are what IBM's README and the hub's pages said when this list was written (2026; of mvpformer-s-swec the
page was not seen, its numbers are those of its siblings). Sizes of downloads follow from the parameters in float32; those of IBM's files, whose share
lists none, are estimates. The page decides. All of them: for research only, not for diagnosis.
"""

from dataclasses import dataclass

RESTRICTION = "research only: the authors exclude diagnostic use"
_IBM = "IBM/multi-variate-parallel-transformer on GitHub (its README links the share)"


@dataclass(frozen=True)
class Published:
    """One published set of weights.

    Attributes:
        name: how it is asked for.
        holds: what it is for.
        parameters: about how many.
        size: of the download.
        source: hub repository, or where else it is.
        on_hub: whether 'models get' can fetch it.
        licence, gated: of the weights, and whether an account must ask first.
        forecasts, detects: which of our verbs take it.
    """

    name: str
    holds: str
    parameters: str
    size: str
    source: str
    on_hub: bool
    forecasts: bool = False
    detects: bool = False
    licence: str = f"Apache-2.0; {RESTRICTION}"
    gated: bool = False

    @property
    def needs(self) -> str:
        """What a person must have or do."""
        if self.on_hub:
            return f"network for 'ieeg models get {self.name}', or its folder for 'ieeg models convert'"
        if self.detects:
            return f"two files by hand, base and head: {_IBM}; then 'ieeg models convert HEAD --base BASE'"
        return f"its file by hand: {_IBM}; then 'ieeg models convert FILE'"


def _hub(size: str, kind: str, holds: str, parameters: str, bytes: str, *, detects: bool) -> Published:
    name = f"mvpformer-{size}-{kind}"
    return Published(name, holds, parameters, bytes, f"braindecode/{name}", True, detects=detects)


PUBLISHED: tuple[Published, ...] = (
    Published("ibm-s-base", "pre-trained on SWEC, generative head", "75 M", "0.3 GB", _IBM, False, forecasts=True),
    Published(
        "ibm-s-swec", "seizure detector (LoRA and head, beside the base)", "75 M", "a few MB", _IBM, False, detects=True
    ),
    Published("ibm-m-base", "pre-trained on SWEC, generative head", "1.2 B", "5 GB", _IBM, False, forecasts=True),
    Published(
        "ibm-m-swec",
        "seizure detector (LoRA and head, beside the base)",
        "1.2 B",
        "a few MB",
        _IBM,
        False,
        detects=True,
    ),
    _hub(
        "s", "pretrained", "backbone of ibm-s-base; its head is random, to be trained", "74 M", "0.3 GB", detects=False
    ),
    _hub("s", "swec", "seizure detector, LoRA merged", "74 M", "0.3 GB", detects=True),
    _hub(
        "s",
        "mayo",
        "detector of pathological activity in 3 s clips (MAYO), LoRA merged",
        "74 M",
        "0.3 GB",
        detects=False,
    ),
    _hub(
        "s",
        "fnusa",
        "detector of pathological activity in 3 s clips (FNUSA), LoRA merged",
        "74 M",
        "0.3 GB",
        detects=False,
    ),
    _hub(
        "m", "pretrained", "backbone of ibm-m-base; its head is random, to be trained", "1.2 B", "5 GB", detects=False
    ),
    _hub("m", "swec", "seizure detector, LoRA merged", "1.2 B", "5 GB", detects=True),
)


def published(name: str) -> Published | None:
    """By name."""
    return next((p for p in PUBLISHED if p.name == name), None)
