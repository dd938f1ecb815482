"""What a text looks like: its tokens and the lengths of its documents."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from language_models.texts.tokens import Tokenizer


def draw_text(name: str, ids: NDArray[Any], lengths: NDArray[Any], tokenizer: Tokenizer) -> Figure:
    """The thirty most frequent tokens, and the lengths of the documents."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    tokens, documents = figure.subplots(1, 2, width_ratios=(3, 2))
    counts = np.bincount(ids, minlength=tokenizer.size)
    most = counts.argsort()[::-1][:30]
    most = most[counts[most] > 0]
    labels = [repr(tokenizer.decode([i]) or f"<{i}>")[1:-1].replace(" ", "␣") for i in most]
    tokens.bar(range(len(most)), counts[most] / counts.sum(), color="tab:blue")
    tokens.set_xticks(range(len(most)), [label.replace("$", r"\$") for label in labels], fontsize=8)
    tokens.set(title=f"{name}: most frequent tokens", ylabel="share")
    documents.hist(lengths, bins=min(30, max(1, len(lengths))), color="tab:orange")
    documents.set(title=f"{len(lengths):,} documents", xlabel="tokens", ylabel="documents")
    for axes in (tokens, documents):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure
