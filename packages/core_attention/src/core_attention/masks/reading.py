"""From what a caller gives, tensors or typed masks, to the one mask of the problem."""

from __future__ import annotations

import torch
from torch import Tensor

from core_attention.masks.biases import Additive
from core_attention.masks.checking import check_tensor, one_or
from core_attention.masks.mask import Mask, Size, together
from core_attention.masks.visibility import Dense


def as_mask(
    mask: Mask | Tensor | None, bias: Mask | Tensor | None, size: Size, key_mask: Tensor | None = None
) -> Mask | None:
    """The mask that a call's `mask`, `bias` and `key_mask` make together, checked against `size`.

    A bool tensor is short for `Dense`, a float tensor as `bias` for `Additive`.

    Raises:
        ValueError: a float tensor as `mask`, a bool tensor as `bias`, a shape that does not fit, or one that could be read in two ways.
    """
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask is a bool tensor (True: visible) or a typed mask, got {mask.dtype}; pass what is added to scores as bias="
            )
        if mask.ndim == 2:
            _refuse_ambiguous(mask, size)
        mask = Dense(mask)
    if isinstance(bias, Tensor):
        if not bias.is_floating_point():
            raise ValueError(
                f"bias is a float tensor or a typed bias, got {bias.dtype}; pass which pairs are visible as mask="
            )
        bias = Additive(bias)
    given: list[Mask] = []
    for one in (mask, bias):
        if isinstance(one, Mask):
            given.append(one)
        elif one is not None:
            raise ValueError(f"a mask is a bool tensor or a mask of core_attention.masks, got {type(one).__name__}")
    if key_mask is not None:
        given.append(_of_keys(key_mask, size))
    both = together(given)
    if both is None:
        return None
    both.check(size)
    return both.at(size)


def _refuse_ambiguous(mask: Tensor, size: Size) -> None:
    """A (batch, keys) mask of padding is not a (queries, keys) mask; where batch == queries the two cannot be told apart."""
    shape, as_pairs, as_keys = tuple(mask.shape), (size.queries, size.keys), (size.batch, size.keys)
    if shape != as_keys or size.batch == 1:
        return
    if shape == as_pairs:
        raise ValueError(
            f"mask of shape {shape} could be (queries, keys) or (batch, keys): write mask=mask[None, None] for the first, "
            "key_mask=mask for the second"
        )
    raise ValueError(
        f"mask of shape {shape} is (batch, keys), but mask= is (queries, keys) = {as_pairs}: pass it as key_mask="
    )


def _of_keys(visible: Tensor, size: Size) -> Dense:
    check_tensor("key_mask", visible)
    if visible.dtype != torch.bool:
        raise ValueError(
            f"key_mask is a bool tensor (True: the key is there), got {visible.dtype}: write key_mask.bool()"
        )
    if visible.ndim != 2 or not one_or(visible.shape[0], size.batch) or visible.shape[1] != size.keys:
        raise ValueError(f"key_mask has shape (batch, keys) = {(size.batch, size.keys)}, got {tuple(visible.shape)}")
    return Dense(visible[:, None, None])
