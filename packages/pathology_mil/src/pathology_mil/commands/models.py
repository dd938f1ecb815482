"""The verb `models`: list what is published, get it, convert an official checkpoint, check a model folder."""

from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, named
from core_runtime.hub import hub_errors
from pathology_mil.model.published import NO_CLASSIFIERS, PUBLISHED, published


def listed() -> dict[str, Any]:
    """For ``models --json``."""
    rows = [
        {
            "name": p.name,
            "kind": p.kind,
            "licence": p.licence,
            "size": p.size,
            "gated": p.gated,
            "feature_width": p.width or None,
            "tiles": p.tiles,
            "source": p.source.removeprefix("github:"),
            "encoder": p.encoder,
            "needs": p.needs,
        }
        for p in PUBLISHED
    ]
    return {"models": rows, "classifiers": NO_CLASSIFIERS}


def get(name: str, out: Path) -> dict[str, Any]:
    """Downloads the weights of a published encoder into `out`.

    Raises:
        UserError: unknown name, nothing to download, no access, no network.
    """
    found = published(name)
    if found is None:
        raise UserError(f"no published model is called {name!r}", f"known: {', '.join(p.name for p in PUBLISHED)}")
    if found.kind == "built in" or found.source.startswith("github:"):
        raise UserError(f"{name} is not on the hub", f"it needs {found.needs}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    *others, last = found.files  # whichever of them the repository holds
    with hub_errors(name, found.source, "copy the file and use 'encode --weights FILE'"):
        for file in others:
            try:
                path = hf_hub_download(found.source, file, local_dir=out / name)
                break
            except LocalEntryNotFoundError:  # no network; an EntryNotFoundError, too
                raise
            except EntryNotFoundError:
                continue
        else:
            path = hf_hub_download(found.source, last, local_dir=out / name)
    use = f"encode --encoder '{found.encoder}' --weights '{path}' --as {name}" if found.encoder else found.needs
    return {"name": name, "file": path, "licence": found.licence, "use": use}


def convert(checkpoint: Path, out: Path, *, classes: list[str] | None = None) -> dict[str, Any]:
    """Makes a model folder of an official ACMIL checkpoint (``torch.save({'model', 'optimizer', 'epoch', 'config'})``, or a bare state dict).

    Widths, branches and classes are read off the shapes; the pickled configuration in the file is not executed.

    Raises:
        UserError: not such a checkpoint.
    """
    from core_attention.checkpoints.folders import read_official, save_model
    from pathology_mil.model.official import infer_config, system

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        config = infer_config(state)
        component = config.pop("component")
        model = system.components[component].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error)) from None
    names = classes or [str(c) for c in range(config["n_class"])]
    if len(names) != config["n_class"]:
        raise UserError(f"{len(names)} class names were given, the checkpoint has {config['n_class']} classes")
    provenance = {"converted_from": checkpoint.name, "component": component, "official_config": config}
    save_model(model, out, preprocessing={"classes": names, "features": {}}, provenance=provenance)
    return {"model": str(out), "component": component, **config, "classes": names}


def check(folder: Path | str) -> dict[str, Any]:
    """Loads a model folder strictly and runs it once.

    Raises:
        UserError: it cannot be used.
    """
    import torch

    from pathology_mil.model.folder import load

    loaded = load(folder)
    with torch.inference_mode():
        output = loaded.network(torch.randn(16, loaded.width))
    if not bool(torch.isfinite(output.slide_logits).all()):
        raise UserError(
            f"{folder}: the model's answers are not finite", "its weights are damaged: train or convert again"
        )
    config = loaded.network.config
    return {
        "model": str(folder),
        "class": type(loaded.network).__name__,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "classes": list(loaded.classes),
        "feature_width": loaded.width,
        "width": config.inner,  # pyright: ignore[reportAttributeAccessIssue]
        "features": dict(loaded.features),
        "trained_on": loaded.provenance.get("trained_on"),
    }
