"""Official checkpoint files, read without executing anything in them: safetensors, or pickles by an allow-list."""

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
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
# numpy's arrays and their types, beside tensors the only things in a pickle that are rebuilt as what they are
_DTYPES = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]
_NUMPY = [np.ndarray, np.dtype, *_DTYPES]
_STATE_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "module")  # in order of preference
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


def read_official(
    path: Path | str, *, key: str | None = None, prefer: Sequence[str] = (), allow: Iterable[str] = ()
) -> StateDict:
    """The state dict in an official checkpoint file, on the CPU, in its own dtypes.

    Safetensors, or ``torch.save`` files read with ``weights_only``. A settings object pickled beside the weights is read as inert values if its
    class is one of `SETTINGS`; any other class is refused, and never imported. If the file holds a dictionary of things, the state dict is
    taken under `key`, or the usual names (model, state_dict …). Prefixes of DataParallel and torch.compile are removed.

    Args:
        path: the file.
        key: where in the file the state dict is, for example ``"model_ema"``.
        prefer: where it is looked for before the usual names, such as the averaged weights of a training.
        allow: further class names to be read as inert settings, with or without their module.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds code, or has no state dict where one was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        content = load_safetensors(path)
    else:
        content = _load_pickled(path, set(allow))
    state = _find_state(content, key, (*prefer, *_STATE_KEYS), path)
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
        OSError: it does not exist or cannot be read.
        ValueError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None


def _load_pickled(path: Path, allow: set[str]) -> Any:
    """`torch.load` with `weights_only`; classes of the allow-list are read as inert settings.

    torch names only the first class that it refuses. So the file is read again with each allowed one added, until it loads.
    """
    inert: list[Any] = [*_NUMPY, *_numpy_functions()]
    options = {"map_location": "cpu", "weights_only": True, "mmap": zipfile.is_zipfile(path)}
    admitted: set[str] = set()
    while True:
        try:
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old pickle protocols
                return torch.load(path, **options)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle fails in any way
            refused_class = re.search(r"GLOBAL (\S+)", str(error))
            if refused_class is None:
                reason = _short_reason(error)
                raise ValueError(f"{path} is damaged or not a checkpoint of torch: {reason}") from error
            name = refused_class[1]
            # refused although it was admitted: it is used in a way that inert settings do not have
            if name in admitted:
                raise ValueError(f"{path} is refused: it holds a {name}, which would run code") from None
            if not {name, name.rpartition(".")[2]} & (SETTINGS | allow):
                hint = f" (allow={name!r} reads it as plain values)"
                raise ValueError(f"{path} is refused: it holds a {name}, which would run code{hint}") from None
            admitted.add(name)
            inert.append((Settings, name))


def _short_reason(error: Exception) -> str:
    """The cause alone, without torch's advice on `weights_only`."""
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    if not message:
        return type(error).__name__
    return message.splitlines()[0][:200]


def _numpy_functions() -> list[Any]:
    """What rebuilds numpy's numbers and arrays, under the names of numpy 1 and 2."""
    from numpy._core import multiarray

    functions = (multiarray.scalar, multiarray._reconstruct)  # pyright: ignore[reportAttributeAccessIssue]
    pairs = product(functions, ("core", "_core"))
    return [(function, f"numpy.{core}.multiarray.{function.__name__}") for function, core in pairs]


def _find_state(content: Any, key: str | None, usual: Sequence[str], path: Path) -> StateDict:
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise ValueError(f"{path} has nothing under {key!r}; it holds {_keys(content)}")
        content = content[key]
    for _ in range(3):  # dictionaries in dictionaries, as trainers nest them
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(tensor, Tensor) for tensor in content.values()):
            return {str(name): tensor.detach() for name, tensor in content.items()}
        inner = next((name for name in usual if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    raise ValueError(f"{path} has no state dict of tensors; it holds {_keys(content)} (key=… names where it is)")


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"
    names = [str(name) for name in content]
    listed = ", ".join(names[:8])
    return f"{listed} …" if len(names) > 8 else listed
