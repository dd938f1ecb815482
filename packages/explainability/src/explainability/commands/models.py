"""``explainability models``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import AtLeast, Names
from explainability.models.published import NOTICE, PUBLISHED


def convert(
    checkpoint: Path,
    /,
    *,
    method: Literal["prompt-cam", "sat"],
    heads: Annotated[int, AtLeast(1)],
    classes: Names | None = None,
    out: Path = Path("model"),
) -> Described:
    """Makes a model folder of a published checkpoint of Prompt-CAM or SAT; prefixes of data parallel training are understood.

    Example: explainability models convert best_loc.pth.tar --method sat --heads 6 --out model

    Args:
        checkpoint: a .pth, .pt, .pth.tar or .safetensors file.
        method: whose it is.
        heads: attention heads of its backbone, which a checkpoint does not say.
        classes: their names, in the order of the logits; default: numbers.
        out: the model folder.
    """
    from core_attention.checkpoints.files import read_official
    from core_attention.systems import load_strictly
    from core_runtime.errors import named
    from explainability.models.loading import save_network
    from explainability.models.network import Network
    from explainability.models.reading_checkpoints import config_of, state_of

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    if not checkpoint.is_file():
        raise UserError(f"no such file: {checkpoint}", "give the checkpoint file")
    try:
        official = read_official(checkpoint)
        config = config_of(official, method, heads, _named(classes))
        network = Network(config)
        load_strictly(network, state_of(official, method))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error), f"expected a state dict of {method}") from None
    save_network(network, out, {"converted_from": checkpoint.name, "method": method})
    return Described({"model": str(out), "classes": len(config.classes)})


def _named(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if classes is None else tuple(classes)


def check(folder: str, /) -> Described:
    """Loads a model strictly and runs it once.

    Example: explainability models check run/model

    Args:
        folder: a model folder, or timm:, torchvision: or hf: and a name.
    """
    import torch

    from explainability.attribution.targets import logits_of
    from explainability.models.loading import load_classifier

    classifier = load_classifier(folder)
    with torch.inference_mode():
        logits = logits_of(classifier.model(torch.randn(1, classifier.channels, *classifier.size)))
    if not bool(logits.isfinite().all()):
        raise UserError(f"{folder}: the model's answers are not finite", "its weights are damaged: train again")
    parameters = sum(p.numel() for p in classifier.model.parameters())
    return Described({"model": folder, "classes": logits.shape[-1], "parameters": parameters})


models = models_group(PUBLISHED, convert, check, command="explainability", notice=NOTICE)
