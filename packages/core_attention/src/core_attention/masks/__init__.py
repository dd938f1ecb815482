"""Typed masks and biases for `core_attention.attention`: each says what a query may see without being written out.

A mask is a small frozen object. Masks combine with ``&`` (a pair must be allowed by all, biases add up), ``|`` (by one of them) and
``~`` (what was hidden is visible). A backend asks a mask for the part it needs, so that no (queries, keys) matrix exists unless the
mask itself is one::

    attention(q, k, v, mask=Causal() & Segments(ids))
    attention(q, k, v, mask=Causal(align="end") & (Window(64, 0) | ~Dense(far)), bias=Alibi.geometric(heads))

Positions are counted from 0; query ``i`` and key ``j`` stand on the same axis, shifted by `offset` where a mask has one.
Dimensions that are the same for all samples or heads may have size 1.
"""

from core_attention.masks.biases import Additive, Alibi, Factorised, RelativePosition, distances
from core_attention.masks.checking import readable, transformed
from core_attention.masks.mask import (
    All,
    Either,
    Mask,
    Not,
    Part,
    Run,
    Size,
    Where,
    joined,
    learnable,
    names,
    parts,
    pick,
    positions,
    tensors_of,
    together,
)
from core_attention.masks.reading import as_mask
from core_attention.masks.visibility import Blocks, Causal, Dense, KeyLengths, Segments, Window, in_band

__all__ = [
    "Additive",
    "Alibi",
    "All",
    "Blocks",
    "Causal",
    "Dense",
    "Either",
    "Factorised",
    "KeyLengths",
    "Mask",
    "Not",
    "Part",
    "RelativePosition",
    "Run",
    "Segments",
    "Size",
    "Where",
    "Window",
    "as_mask",
    "distances",
    "in_band",
    "joined",
    "learnable",
    "names",
    "parts",
    "pick",
    "positions",
    "readable",
    "tensors_of",
    "together",
    "transformed",
]
