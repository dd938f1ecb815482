"""Official checkpoint files, read without executing anything in them: safetensors, or pickles by an allow-list."""

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core_attention.registry.systems import StateDict

# Class names under which projects pickle their settings beside the weights. Such an object is read as an inert `Settings`,
# whatever module it names: nothing is imported and nothing of it runs.
SETTINGS = frozenset(
    {
        "AnyNode",
        "Args",
        "AttrDict",
        "AttributeDict",
        "CfgNode",
        "Config",
        "ConfigDict",
        "ContainerMetadata",
        "DictConfig",
        "EasyDict",
        "ListConfig",
        "Metadata",
        "Munch",
        "Namespace",
        "PosixPath",
        "PurePosixPath",
        "SimpleNamespace",
        "Struct",
        "WindowsPath",
    }
)
_NUMPY = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")),
]
_STATE_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "module")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile


class Settings:
    """A pickled settings object, reduced to the values that it held (`values`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.values: dict[Any, Any] = dict(enumerate(args)) | kwargs

    def __setstate__(self, state: Any) -> None:
        self.values = dict(state) if isinstance(state, Mapping) else {"state": state}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def append(self, value: Any) -> None:
        self.values[len(self.values)] = value

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)


def read_official(path: Path | str, *, key: str | None = None, allow: Iterable[str] = ()) -> StateDict:
    """The state dict in an official checkpoint file, on the CPU, in its own dtypes.

    Safetensors, or ``torch.save`` files read with ``weights_only``. A settings object pickled beside the weights is read as inert values if its
    class is one of `SETTINGS`; any other class is refused, and never imported. Of a dictionary of things the state dict is
    taken under `key`, or the usual names (model, state_dict …). Prefixes of DataParallel and torch.compile are removed.

    Args:
        path: the file.
        key: where in the file the state dict is, for example ``"model_ema"``.
        allow: further class names to be read as inert settings, with or without their module.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds code, or has no state dict where one was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = load_safetensors(path) if path.suffix == ".safetensors" else _load_pickled(path, {*allow})
    state = _find_state(content, key, path)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> StateDict:
    """A state dict with every rule applied to every key, in order: a pattern of `re` → its replacement.

    Raises:
        ValueError: two keys would get the same name.
    """
    result: StateDict = {}
    for key, tensor in state.items():
        name = key
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        if name in result:
            raise ValueError(f"two keys would be named {name!r}, one of them {key!r}")
        result[name] = tensor
    return result


def load_safetensors(path: Path) -> StateDict:
    """The tensors of a safetensors file.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None


def _load_pickled(path: Path, allow: set[str]) -> Any:
    """`torch.load` with `weights_only`; classes of the allow-list stand for inert settings, one after the other as they turn up."""
    inert: list[Any] = [*_NUMPY, *_numpy_functions()]
    options = {"map_location": "cpu", "weights_only": True, "mmap": zipfile.is_zipfile(path)}
    seen: set[str] = set()
    while True:
        try:
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old pickle protocols
                return torch.load(path, **options)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle fails in any way
            found = re.search(r"GLOBAL (\S+)", str(error))
            if found is None:
                # of torch's advice on weights_only, the cause alone
                said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
                reason = said.splitlines()[0] if said else type(error).__name__
                raise ValueError(f"{path} is damaged or no checkpoint of torch: {reason[:200]}") from error
            name = found[1]
            if name in seen or not {name, name.rpartition(".")[2]} & (SETTINGS | allow):
                hint = "" if name in seen else f" (allow={name!r} reads it as plain values)"
                raise ValueError(f"{path} is refused: it holds a {name}, which would run code{hint}") from None
            seen.add(name)
            inert.append((Settings, name))


def _numpy_functions() -> list[Any]:
    """What rebuilds numpy's numbers and arrays, under the names of numpy 1 and 2."""
    from numpy._core import multiarray

    functions = (multiarray.scalar, multiarray._reconstruct)  # pyright: ignore[reportAttributeAccessIssue]
    return [(f, f"numpy.{core}.multiarray.{f.__name__}") for core in ("core", "_core") for f in functions]


def _find_state(content: Any, key: str | None, path: Path) -> StateDict:
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise ValueError(f"{path} has nothing under {key!r}; it holds {_keys(content)}")
        content = content[key]
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(tensor, Tensor) for tensor in content.values()):
            return {str(name): tensor.detach() for name, tensor in content.items()}
        inner = next((name for name in _STATE_KEYS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    raise ValueError(f"{path} has no state dict of tensors; it holds {_keys(content)} (key=… names where it is)")


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(name) for name in content]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "nothing"
