"""``pathology-mil models``."""

from pathlib import Path

from core_runtime.errors import UserError, named
from core_runtime.models import Described, download, find_published
from core_runtime.models import models as models_group
from core_runtime.options import Names
from pathology_mil.features.options import PAIRINGS
from pathology_mil.model.published import NO_CLASSIFIERS, PUBLISHED, PublishedEncoder


def get(name: str, /, *, out: Path = Path("models")) -> Described:
    """Fetches the weights of a published encoder from the hub.

    Example: pathology-mil models get resnet50 --out models

    Args:
        name: as in the list.
        out: folder for the files.
    """
    published = find_published(PUBLISHED, name)
    assert isinstance(published, PublishedEncoder)
    file = download(published, out / name)
    use = published.needs
    if published.encoder:
        known_as = ""
        if name in PAIRINGS:
            known_as = f" --known-as {name}"
        # quoted: timm's names hold characters that shells interpret
        use = f"pathology-mil encode JOB --encoder '{published.encoder}' --weights '{file}'{known_as}"
    return Described({"name": name, "file": str(file), "licence": published.licence, "use": use})


def convert(checkpoint: Path, /, *, out: Path = Path("models"), classes: Names = ()) -> Described:
    """Makes a model folder from an official ACMIL checkpoint.

    Takes ``torch.save({'model', 'optimizer', 'epoch', 'config'})`` or a bare state dict. Widths, branches and classes are inferred from
    the shapes; the pickled configuration in the file is not executed.

    Example: pathology-mil models convert checkpoint-best.pth --out acmil-model --classes normal,tumour

    Args:
        checkpoint: a .pth or .safetensors file.
        out: the model folder.
        classes: class names, in order.
    """
    from core_attention.checkpoints.folders import read_official
    from pathology_mil.model.declaration import system
    from pathology_mil.model.folder import save
    from pathology_mil.model.official import infer_config

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        config = infer_config(state)
        component = config.pop("component")
        model = system.components[component].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error)) from None
    names = classes or tuple(map(str, range(config["n_class"])))
    if len(names) != config["n_class"]:
        raise UserError(f"{len(names)} class names were given, the checkpoint has {config['n_class']} classes")
    provenance = {"converted_from": checkpoint.name, "component": component, "official_config": config}
    save(model, out, classes=names, features={}, provenance=provenance)
    return Described({"model": str(out), "component": component, **config, "classes": list(names)})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: pathology-mil models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from pathology_mil.model.folder import load

    loaded = load(folder)
    with torch.inference_mode():
        output = loaded.network(torch.randn(16, loaded.width))
    if not bool(torch.isfinite(output.slide_logits).all()):
        raise UserError(
            f"{folder}: the model's outputs are not finite", "its weights are damaged: train or convert again"
        )
    config = loaded.network.config
    return Described(
        {
            "model": str(folder),
            "class": type(loaded.network).__name__,
            "parameters": sum(parameter.numel() for parameter in loaded.network.parameters()),
            "classes": list(loaded.classes),
            "feature_width": loaded.width,
            "width": config.inner,  # pyright: ignore[reportAttributeAccessIssue]
            "features": dict(loaded.features),
            "trained_on": loaded.provenance.get("trained_on"),
        }
    )


models = models_group(PUBLISHED, get, convert, check, command="pathology-mil", notice=NO_CLASSIFIERS)
