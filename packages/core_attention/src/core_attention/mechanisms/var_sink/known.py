"""Sink dimensions that were published, for the configurations that they were found on and for no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Known:
    """One row of the paper.

    Attributes:
        model: its name.
        kind: `model_type` of the configuration.
        text: `model_type` of its language model.
        width, layers: of the language model.
        dims: where sinks are massive.
        source: who says so.
    """

    model: str
    kind: tuple[str, ...]
    text: str
    width: int
    layers: int
    dims: tuple[int, ...]
    source: str


PUBLISHED = (
    Known("LLaVA-1.5-7B", ("llava",), "llama", 4096, 32, (1415, 2533), "published code"),
    Known("LLaVA-1.5-13B, LLaVA-1.6-13B", ("llava", "llava_next"), "llama", 5120, 40, (2100, 4743), "published code"),
    Known("Qwen2-VL-7B", ("qwen2_vl",), "qwen2_vl_text", 3584, 28, (458, 2570), "the paper, as readers quote it"),
)


def known_dims(config: Any) -> Known | None:
    """The published dimensions of a model with this configuration, None for any other.

    InternVL2-8B is left out: the one dimension quoted for it (3584) comes without the language model it was found on.
    """
    text = config.get_text_config()
    for row in PUBLISHED:
        size = (text.hidden_size, text.num_hidden_layers)
        if config.model_type in row.kind and text.model_type == row.text and size == (row.width, row.layers):
            return row
    return None
