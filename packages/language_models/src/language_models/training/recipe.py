"""How a model is trained."""

from pathlib import Path
from typing import Annotated

from core_runtime.options import Above, AtLeast, Between, options


@options
class Recipe:
    """What is trained, and how.

    Attributes:
        kind: the mechanism: a name of 'language-models models kinds', a pattern such as hybrid:even:nonapprox, or FILE.py of your own.
        params: parameters of the model, about.
        epochs: passes over the text.
        tokens: tokens to learn from, in all; in place of `epochs`.
        context: tokens of a window.
        batch: windows of a step.
        lr: highest learning rate of AdamW; a cosine leads to a tenth of it.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of matrices; vectors have none.
        clip: greatest norm of a gradient.
        save_every: steps between checkpoints; an interrupted run repeats at most so many.
        tokenizer: bytes, or a tokenizer.json.
        field: of records: what holds the text.
    """

    kind: str = "standard"
    params: Annotated[int, AtLeast(1000)] = 1_000_000
    epochs: Annotated[int, AtLeast(1)] = 1
    tokens: Annotated[int, AtLeast(1)] | None = None
    context: Annotated[int, AtLeast(8)] = 256
    batch: Annotated[int, AtLeast(1)] = 16
    lr: Annotated[float, Above(0)] = 3e-3
    warmup: Annotated[float, Between(0, 1)] = 0.05
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    clip: Annotated[float, Above(0)] = 1.0
    save_every: Annotated[int, AtLeast(1)] = 100
    tokenizer: Path | None = None
    field: str = "text"

    def steps(self, windows: int) -> int:
        """Optimiser steps over a text of so many windows."""
        if self.tokens is None:
            return max(1, -(-self.epochs * windows // self.batch))
        return max(1, -(-self.tokens // (self.batch * self.context)))
