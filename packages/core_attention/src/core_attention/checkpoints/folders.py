"""Weights on disk: model folders, and official checkpoint files (`core_attention.checkpoints.files`), read without executing anything in them.

A *model folder* is ``model.safetensors`` beside ``config.json`` (class, config dataclass, preprocessing, provenance). `save_model` writes it whole
or not at all; `load_model` checks the class, builds it from its config and loads every tensor strictly in the dtype it has in the file.
`read_official` reads what a paper's authors published.
"""

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core_attention.checkpoints.config import decode, encode
from core_attention.checkpoints.files import load_safetensors, read_official, renamed
from core_attention.registry.systems import StateDict, StateError, check_shapes, floating_dtype, load_strictly

__all__ = ["find_folder", "load_model", "read_config", "read_official", "renamed", "save_model"]

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
HUB = "hub:"  # marks the name of a hub repository that holds a separator itself, as in hub:owner/name

Module = TypeVar("Module", bound=nn.Module)


def save_model(
    model: nn.Module,
    folder: Path | str,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model folder; an existing one is replaced.

    Args:
        model: a module whose ``config`` is the dataclass that its class is built from.
        folder: where.
        preprocessing: what must be done to inputs, and what outputs mean (JSON).
        provenance: how the weights came to be (JSON).

    Raises:
        ValueError: the model has no config dataclass, or something cannot be written as JSON.
    """
    config = getattr(model, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"{type(model).__name__} has no config dataclass to save: got {type(config).__name__}")
    described = {
        "format": FORMAT,
        "class": type(model).__name__,
        "module": type(model).__module__,
        "config": encode(config),
        "preprocessing": dict(preprocessing or {}),
        "provenance": {"torch": torch.__version__} | dict(provenance or {}),
    }
    try:
        text = json.dumps(described, indent=1)
    except TypeError as error:
        raise ValueError(f"config.json of {type(model).__name__} cannot be written: {error}") from error
    folder = Path(folder)
    # written beside its place and renamed into it: the folder is whole or absent at any moment
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for left_over in (unfinished, replaced):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / CONFIG).write_text(text, encoding="utf-8")
    save_file(_storable(model), unfinished / WEIGHTS, metadata={"format": "pt"})
    # safetensors writes files that only their owner can read; a group shares its models
    shutil.copymode(unfinished / CONFIG, unfinished / WEIGHTS)
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def load_model(folder: Path | str, kind: type[Module]) -> Module:
    """Loads a model folder, or a hub name (see `find_folder`), in evaluation mode on the CPU.

    Args:
        folder: the folder or name.
        kind: the class that it must hold; built from the config dataclass that its ``__init__`` is annotated with.

    Raises:
        OSError: no such folder or name, or a file that cannot be read.
        ValueError: another class, a config that does not fit, damaged or infinite weights, missing or unexpected keys, other shapes.
    """
    place = find_folder(folder)
    described = read_config(place)
    if described["class"] != kind.__name__:
        raise ValueError(f"{place} holds a {described['class']}, expected a {kind.__name__}")
    config = decode(_config_class(kind), described["config"], f"{place / CONFIG}: config")
    state = load_safetensors(place / WEIGHTS)
    _refuse_other_sizes(kind, config, state, place)
    try:
        model = kind(config)
    except (TypeError, RuntimeError, MemoryError) as error:
        raise _no_model(kind, place, error) from error
    _take_dtypes(model, state)
    load_strictly(model, state)
    damaged = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if damaged:
        raise ValueError(
            f"{place / WEIGHTS}: {damaged[0]} holds values that are not finite: the training went wrong, or the file is damaged"
        )
    return model.eval()


def _no_model(kind: type[nn.Module], place: Path, error: Exception) -> ValueError:
    reason = [*str(error).splitlines(), type(error).__name__][0]  # torch adds a trace of its C++ calls
    return ValueError(f"{place}: no {kind.__name__} can be built from its config: {reason}")


def _refuse_other_sizes(kind: type[nn.Module], config: Any, state: StateDict, place: Path) -> None:
    """Builds the model without memory and compares its size and shapes with the file's, so that no config can fill the memory.

    Raises:
        ValueError: more than twice the numbers that the file holds, other shapes, or a config of which nothing can be built.
    """
    try:
        with torch.device("meta"):
            sketch = kind(config)
    except Exception as error:
        if "meta" in str(error):  # it reads values while it is built: nothing can be told without memory
            return
        if isinstance(error, ValueError):
            raise
        # what fails here fails with memory too, after it has been taken
        raise _no_model(kind, place, error) from error
    check_shapes(sketch, state)
    size = sum(parameter.numel() for parameter in sketch.parameters())
    held = sum(tensor.numel() for tensor in state.values())
    if size > 2 * held:
        raise ValueError(
            f"{place}: its config describes {size:,} parameters, {WEIGHTS} holds {held:,}: they do not belong together"
        )


def read_config(folder: Path | str) -> dict[str, Any]:
    """The ``config.json`` of a model folder: class, config, preprocessing, provenance.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: it is not the description of a model.
    """
    place = find_folder(folder) / CONFIG
    if not place.is_file():
        raise FileNotFoundError(f"{place.parent} is not a model folder: it has no {CONFIG}")
    try:
        described = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{place} is damaged: {error}") from error
    if not isinstance(described, dict) or not {"class", "config", "preprocessing", "provenance"} <= described.keys():
        raise ValueError(f"{place} describes no model of this suite")
    if described.get("format") != FORMAT:
        raise ValueError(f"{place} has format {described.get('format')}, this version reads {FORMAT}")
    return described


def find_folder(name: Path | str) -> Path:
    """The folder that an argument means: a folder that is there, a path if it holds a path separator, else the name of a hub repository.

    ``hub:owner/name`` names a repository with an owner. A hub repository is downloaded once, into huggingface_hub's own cache.

    Raises:
        OSError: no such folder, or the hub cannot give it.
        ValueError: the hub is needed and its library is not installed.
    """
    if not _names_hub(name):
        folder = Path(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        return folder
    if Path(name).is_file():
        raise NotADirectoryError(f"{name} is a file, not a model folder")
    repository = str(name).removeprefix(HUB)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{name!r} is a hub name (there is no folder {name} here): that needs `pip install huggingface_hub`"
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CONFIG]))
    except Exception as error:
        message = str(error).strip()
        reason = message.splitlines()[0] if message else type(error).__name__
        raise OSError(f"the hub does not give {repository!r}: {reason}") from error


def _names_hub(name: Path | str) -> bool:
    if not isinstance(name, str) or Path(name).is_dir():
        return False
    separators = [separator for separator in (os.sep, os.altsep, "/") if separator]
    return name.startswith(HUB) or not any(separator in name for separator in separators)


def _storable(model: nn.Module) -> StateDict:
    """The state dict as safetensors takes it: a tied tensor once, no two tensors in one storage."""
    named: StateDict = {}
    saved: set[int] = set()  # ids of tensors, which tied ones share
    storages: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{type(model).__name__} keeps {name!r} in its state dict, which is not a tensor")
        if id(tensor) in saved:
            continue
        saved.add(id(tensor))
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        named[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return named


def _take_dtypes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives every tensor of the model the dtype that it has in the file; what is not in it (tables) gets the most common one."""
    dtype = floating_dtype(state.values())
    if dtype is not None:
        model.to(dtype)
    for name, tensor in model.state_dict(keep_vars=True).items():
        stored = state.get(name)
        if stored is None or stored.dtype == tensor.dtype:
            continue
        if stored.is_floating_point() != tensor.is_floating_point():
            raise StateError(f"{name} is {stored.dtype} in the file, the model has {tensor.dtype}")
        tensor.data = tensor.data.to(stored.dtype)


def _config_class(kind: type[nn.Module]) -> type:
    hints = typing.get_type_hints(kind.__init__)
    config = hints.get("config")
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        raise ValueError(f"{kind.__name__}.__init__ has no `config` annotated with a dataclass")
    return config
