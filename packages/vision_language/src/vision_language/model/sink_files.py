"""What `probe` writes and `answer --sinks` reads: the sink dimensions of one model, with evidence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core_attention.mechanisms.var_sink.finding import SinkDims
from core_attention.mechanisms.var_sink.known import known_dims
from core_runtime.errors import UserError
from core_runtime.identity import model_identity


def digest_of(folder: Path) -> str:
    """What tells a model's folder from another's; a copy is the same model."""
    content = json.dumps(model_identity(folder), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def facts_of(found: SinkDims, folder: Path, model_type: str) -> dict[str, Any]:
    """As JSON holds it."""
    return {"model_type": model_type, "model": digest_of(folder), **asdict(found)}


def read_sinks(path: Path, folder: Path) -> tuple[tuple[int, ...], float]:
    """Dimensions and τ from a file of `probe`.

    Raises:
        UserError: unreadable, of another model, or without a dimension.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dims, tau, digest = tuple(int(d) for d in content["dims"]), float(content["tau"]), content["model"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "'vision-language probe' writes it") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not what 'vision-language probe' writes") from None
    if digest != digest_of(folder):
        raise UserError(f"{path} was found on another model ({content.get('model_type')})", "probe this one")
    if not dims:
        raise UserError(
            f"{path}: no dimension of this model is massive at τ = {tau:g}",
            "probe with more pictures, or a lower --tau",
        )
    return dims, tau


def choose_sinks(path: Path | None, config: Any, folder: Path) -> tuple[tuple[int, ...], float, str]:
    """Dimensions, τ and where they are from: a file, or what was published for this very configuration.

    Raises:
        UserError: neither; says how to find them.
    """
    if path is not None:
        dims, tau = read_sinks(path, folder)
        return dims, tau, str(path)
    known = known_dims(config)
    if known is None:
        raise UserError(
            f"no sink dimensions are known for this {config.model_type} "
            f"({config.get_text_config().num_hidden_layers} layers of {config.get_text_config().hidden_size})",
            f"find them: vision-language probe {folder} PICTURES --out sinks.json, then --sinks sinks.json",
        )
    return known.dims, 20.0, f"{known.model}, {known.source}"
