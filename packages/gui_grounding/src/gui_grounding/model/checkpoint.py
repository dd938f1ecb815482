"""Published checkpoint folders: transformers' configuration beside safetensors, whole or in shards, in the old or the new layout."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from core_attention.checkpoints.files import load_safetensors

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is laid out as transformers lays out a model."""
    config = folder / "config.json"
    try:
        return "model_type" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        OSError: it is not there.
        ValueError: it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is a {type(value).__name__}, expected an object")
    return value


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint.

    Raises:
        OSError: a file is not there.
        ValueError: a damaged file, or a shard that lacks what the index says of it.
    """
    if not (folder / INDEX).is_file():
        return load_safetensors(folder / WHOLE)
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict):
        raise ValueError(f"{folder / INDEX} has no weight_map")
    state: dict[str, Tensor] = {}
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX} names the shard {name!r}, which is not a file of its folder")
        state |= load_safetensors(folder / name)
    absent = sorted(index.keys() - state.keys())
    if absent:
        raise ValueError(f"{folder}: its shards lack {', '.join(absent[:3])}, {len(absent)} tensors in all")
    return state


def system_message_of(folder: Path) -> str | None:
    """The system message that a folder brings: ``system_message.txt``, or the field ``system_message`` of its JSON files."""
    text = folder / "system_message.txt"
    if text.is_file():
        return text.read_text(encoding="utf-8").strip()
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            message = read_json(folder / name).get("system_message")
            if isinstance(message, str):
                return message
    return None


def pixel_limits_of(folder: Path) -> tuple[int | None, int | None]:
    """The least and the most pixels of a folder's image processor, in any of the spellings of transformers 4 and 5."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        values = read_json(folder / name)
        values = values.get("image_processor", values)
        size = None
        if isinstance(values, dict):
            size = values.get("size")
        if not isinstance(values, dict) or not isinstance(size, dict | None):
            raise ValueError(f"{folder / name}: its image processor or its size is not an object")
        size = size or {}
        least = values.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge")
        most = values.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge")
        return least, most
    return None, None
