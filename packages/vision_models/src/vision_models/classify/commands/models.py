"""``vision-models classify models``."""

import json
from pathlib import Path
from typing import Annotated, Any

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import AtLeast, Names
from vision_models.classify.model.published import ADVICE, PUBLISHED

_HEADS = ("head.fc2.weight", "head.fc.weight", "head.weight", "fc.weight", "classifier.weight")  # of timm's networks


def convert(
    checkpoint: Path,
    /,
    *,
    network: str,
    out: Path = Path("model"),
    class_names: Names | None = None,
    size: Annotated[int, AtLeast(8)] = 224,
    settings: Names | None = None,
) -> Described:
    """Makes a model folder from a published checkpoint of a network, under the authors' keys or timm's.

    Example: vision-models classify models convert biformer_tiny_in1k.pth --network biformer_tiny --out biformer

    Args:
        checkpoint: a .pth or .safetensors file.
        network: a name of ours or of timm.
        out: the model folder.
        class_names: class names in order; default: their numbers.
        size: side of the network's input in pixels.
        settings: of the network, name=value with commas between.
    """
    from vision_models.classify.model.classifier import Classifier, ClassifierConfig, check_network
    from vision_models.classify.model.folder import save_model
    from vision_models.classify.model.options import NetworkOptions
    from vision_models.classify.model.preparing import preprocessing_for

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    given = NetworkOptions(network=network, settings=settings).values()
    loaded = _load(network, checkpoint, given)
    count, channels = loaded.num_classes, getattr(loaded, "in_chans", 3)
    if not count:
        raise UserError(f"{checkpoint} has no head that ends in classes", "it is a backbone: start with --weights")
    names = class_names or tuple(str(number) for number in range(count))
    if len(names) != count:
        raise UserError(f"{len(names)} --class-names were given, the checkpoint has {count} classes")
    config = ClassifierConfig(network, num_classes=count, in_chans=channels, size=size, settings=json.dumps(given))
    model = Classifier(config)
    model.network.load_state_dict(loaded.state_dict())
    check_network(model, config)
    folder = save_model(
        model,
        out,
        preprocessing=preprocessing_for(size, channels),
        classes=names,
        provenance={"converted_from": checkpoint.name},
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Described({"model": str(folder), "network": network, "parameters": parameters, "classes": count})


def _load(network: str, checkpoint: Path, settings: dict[str, Any]) -> Any:
    """A network with all weights of a checkpoint, as many classes as it has.

    Raises:
        UserError: it cannot be read or does not fit; the tensors are named.
    """
    from core_attention.checkpoints.folders import read_official
    from core_runtime.errors import clean, named
    from vision_models import networks
    from vision_models.networks.converting import load_checkpoint
    from vision_models.networks.layouts import AVERAGED

    try:
        if network in networks.names():
            return load_checkpoint(network, checkpoint, **settings)
        state = read_official(checkpoint, prefer=AVERAGED)
        heads = [key for key in _HEADS if key in state]
        count = len(state[heads[0]]) if heads else 0
        loaded = networks.create(network, num_classes=count, **settings)
        loaded.load_state_dict(state)
        return loaded
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        message = clean(named(checkpoint, error))[:300]
        raise UserError(message, "expected a state dict (.pth, .safetensors) of this network") from None


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: vision-models classify models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from vision_models.classify.model.folder import load_model

    model = load_model(folder)
    config = model.network.config
    noise = torch.randint(0, 256, (2, config.in_chans, config.size, config.size), dtype=torch.uint8)
    if not bool(torch.isfinite(model(noise)).all()):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "network": config.network,
            "insert": config.insert or None,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "input": f"{config.in_chans} × {config.size} × {config.size}",
            "classes": list(model.classes),
            "trained_on": model.provenance.get("trained_on"),
            "test_accuracy": model.provenance.get("test_accuracy"),
        }
    )


models = models_group(PUBLISHED, convert, check, command="vision-models classify", notice=ADVICE)
