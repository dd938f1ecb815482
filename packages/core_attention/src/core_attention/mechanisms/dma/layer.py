"""The attention layer of Doge (transformers' `models/doge`, and the kernel repository's variant), and the cache it decodes with."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core_attention.capture.recording import active
from core_attention.measuring.example import Example
from core_attention.mechanisms.dma.attention import (
    Backend,
    Form,
    Selection,
    dynamic_mask,
    dynamic_mask_attention,
    importance,
)
from core_attention.mechanisms.dma.tiles import key_lifetimes
from core_attention.parts.cache import SETTING, Cache, Rows, check_crop
from core_attention.parts.placing import Device, placed
from core_attention.parts.rotary import rotary_angles, rotate, turn
from core_attention.parts.transforms import readable


class Kept(NamedTuple):
    """Keys that a query may see: rows of one (batch, key head), in no order once tokens were inserted."""

    keys: Float[Tensor, "batch kv_heads kept dim"]
    values: Float[Tensor, "batch kv_heads kept dim"]
    bias: Float[Tensor, "batch kv_heads kept"]
    position: Int[Tensor, "batch kv_heads kept"]
    allowed: Bool[Tensor, "batch kv_heads kept"]

    def at(self, index: Int[Tensor, "batch kv_heads n"]) -> "Kept":
        return Kept(*(x.gather(2, _like(x, index)) for x in self))


def _like(x: Tensor, index: Tensor) -> Tensor:
    return index if x.ndim == 3 else index[..., None].expand(*index.shape, x.shape[-1])


@dataclass
class DynamicMaskCache(Cache):
    """The keys that may still be seen: at most `window` a key head, however long the context.

    A key that `window` others outrank is never kept again, so it need not be stored: a decoded token is one insertion into a set of fixed size.
    Holds detached tensors.

    Attributes:
        window: keys kept, that of the layer.
        length: tokens read so far, padding included.
        rows: keys, values, importance, position and whether a key may be seen at all (padding may not).
        padded: whether any token was ever masked.
    """

    window: int = field(metadata=SETTING)
    length: int = 0
    rows: Rows = field(default_factory=Rows)
    padded: bool = False

    @property
    def kept(self) -> Kept | None:
        """What is held; None before the first token."""
        return Kept(*self.rows.rows) if self.rows.room is not None else None

    def crop(self, length: int) -> None:
        """Forgets the tokens from `length` on; impossible once an older key had to go.

        Raises:
            ValueError: more than `window` tokens were read, or `length` is not from 0 to their number.
        """
        check_crop(length, self.length)
        if self.length > self.window and length < self.length:
            raise ValueError(
                f"of {self.length} tokens the cache keeps {self.window}: it cannot go back to {length}; keep a copy (copy.deepcopy) to return to"
            )
        self.rows.crop(length)
        self.length = length

    def extend(
        self,
        k: Float[Tensor, "batch kv_heads new dim"],
        v: Float[Tensor, "batch kv_heads new dim"],
        bias: Float[Tensor, "batch kv_heads new"],
        mask: Bool[Tensor, "batch new"] | None = None,
    ) -> Kept:
        """What the new queries may see, oldest first unless one token is new; afterwards only what later queries may see is kept.

        Raises:
            ValueError: batch or key heads differ from those held.
        """
        count = k.shape[2]
        allowed = torch.ones_like(bias, dtype=torch.bool) if mask is None else mask[:, None].expand_as(bias)
        position = torch.arange(self.length, self.length + count, device=k.device).expand_as(bias)
        new, held = Kept(k, v, bias, position, allowed), self.kept
        if held is not None and k.shape[:2] != held.keys.shape[:2]:
            raise ValueError(
                f"the cache holds (batch, kv_heads) = {tuple(held.keys.shape[:2])}, the new keys are {tuple(k.shape[:2])}"
            )
        self.length += count
        self.padded = self.padded or mask is not None
        if count == 1 and held is not None and held.keys.shape[2] == self.window and not torch.is_grad_enabled():
            _insert(held, new, self.padded)
            return held
        rows = Kept(*self.rows.extend(*new))
        if self.length - count > self.window or count > 1:
            rows = rows.at(rows.position.argsort(dim=-1))  # the tie rule needs them by age
        if rows.keys.shape[2] > self.window:
            lifetimes = key_lifetimes(rows.bias, self.window, rows.allowed)
            survivors = Kept(*(x.detach() for x in rows)).at(lifetimes.topk(self.window, dim=-1, sorted=False).indices)
            self.rows = Rows()
            self.rows.extend(*survivors)
        return rows


def _insert(held: Kept, new: Kept, padded: bool) -> None:
    """Puts one token in place of the least important key, the oldest of equals, unless the token itself is the least."""
    # NaN ranks first, as in `dynamic_mask`; padding ranks last
    rank, new_rank = held.bias.nan_to_num(nan=torch.inf), new.bias.nan_to_num(nan=torch.inf)
    if padded:
        rank = rank.masked_fill(~held.allowed, -torch.inf)
        new_rank = new_rank.masked_fill(~new.allowed, -torch.inf)
    lowest = rank.amin(-1, keepdim=True)
    enters = new_rank >= lowest
    if padded:
        enters = enters & new.allowed
    # after a long context few tokens outrank a kept one; asking an accelerator would cost more than the writes below
    if enters.device.type == "cpu" and readable(enters) and not enters.any():
        return
    slot = held.position.masked_fill(rank > lowest, torch.iinfo(torch.long).max).argmin(-1, keepdim=True)
    # without padding every key may be seen, and `allowed` stays as it is
    changing = held if padded else held[:4]
    for rows, row in zip(changing, new, strict=False):
        place, replaces = slot, enters
        if rows.ndim == 4:
            place = slot[..., None].expand(-1, -1, -1, rows.shape[-1])
            replaces = enters[..., None]
        rows.scatter_(2, place, torch.where(replaces, row, rows.gather(2, place)))


class DynamicMaskAttention(nn.Module):
    """Grouped-query attention whose keys are biased and selected by their values' importance.

    ``q = RoPE(RMSNorm(W_q x))``, ``k = RoPE(RMSNorm(W_k x))``, ``v = W_v x``; importance from ``W_dt v`` (`importance`); attention as in
    `dynamic_mask_attention`; ``W_o``. Parameter names are those of the published checkpoints.

    Args:
        dim: channels of the input and output.
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of `num_heads`; defaults to `num_heads`.
        head_dim: defaults to ``dim // num_heads``.
        window: keys kept for each query (`keep_window_size` in transformers).
        form: ``"exp"`` (paper, transformers) or ``"log"`` (kernel repository).
        selection: ``"per_query"``, or ``"shared"`` (kernel repository), which looks ahead and is not causal.
        bias: whether the projections have biases.
        eps: of the RMS norms of q and k.
        theta: rotary base.
        dropout: share of attention weights dropped in training.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not divide, or a head dimension that is odd.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int = 2048,
        form: Form = "exp",
        selection: Selection = "per_query",
        bias: bool = False,
        eps: float = 1e-6,
        theta: float = 10000.0,
        dropout: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_heads must be a multiple of num_kv_heads, got {num_heads} and {num_kv_heads}")
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads unless head_dim is given, got {dim} and {num_heads}")
        head_dim = dim // num_heads if head_dim is None else head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.window = window
        self.form: Form = form
        self.selection: Selection = selection
        self.theta, self.dropout = theta, dropout
        self.q_proj = nn.Linear(dim, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, num_kv_heads * head_dim, bias=bias)
        self.A = nn.Parameter(torch.zeros(num_kv_heads))
        self.dt_proj = nn.Linear(num_kv_heads * head_dim, num_kv_heads, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, dim, bias=bias)
        self.q_norm = nn.RMSNorm(head_dim, eps=eps)
        self.k_norm = nn.RMSNorm(head_dim, eps=eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal(0.02) weights, zero biases; A is 0 in exponential form (all keys tie at first) and normal(0.02) in log form, as published."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.form == "exp":
            nn.init.zeros_(self.A)
        else:
            nn.init.normal_(self.A, std=0.02)

    def project(
        self, x: Float[Tensor, "batch length width"], angles: Float[Tensor, "*batch length half"] | None = None
    ) -> tuple[
        Float[Tensor, "batch heads length dim"],
        Float[Tensor, "batch kv_heads length dim"],
        Float[Tensor, "batch kv_heads length dim"],
        Float[Tensor, "batch kv_heads 1 length"],
    ]:
        """Rotated queries and keys, values, and importance. `angles` as from `rotary_angles`; positions 0, 1, … without it."""
        if angles is None:
            angles = rotary_angles(torch.arange(x.shape[1], device=x.device), self.head_dim, self.theta, x.dtype)
        if angles.ndim == 3:
            angles = angles[:, None]
        q = self.q_norm(self._split(self.q_proj(x))).transpose(1, 2)
        k = self.k_norm(self._split(self.k_proj(x))).transpose(1, 2)
        v = self.v_proj(x)
        bias = importance(self.dt_proj(v), self.A, self.form)
        return rotate(q, angles), rotate(k, angles), self._split(v).transpose(1, 2), bias

    def new_cache(self) -> DynamicMaskCache:
        """An empty cache for this layer; one for each generation."""
        return DynamicMaskCache(self.window, rows=Rows())

    def _decodes(self, x: Tensor, cache: DynamicMaskCache) -> bool:
        """Whether a call is one more token of a plain generation: no gradient, no padding so far, no capture, float32 or wider."""
        plain = x.shape[1] == 1 and cache.length > 0 and not cache.padded and x.dtype in (torch.float32, torch.float64)
        quiet = not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type) and not active()
        return plain and quiet and readable(x) and not (self.training and self.dropout)

    def _decode(self, x: Tensor, cache: DynamicMaskCache) -> Tensor:
        """One more token, in as few operations as it takes."""
        v = self.v_proj(x)
        bias = importance(self.dt_proj(v), self.A, self.form)
        q = _normed(self._split(self.q_proj(x)), self.q_norm).transpose(1, 2)
        k = _normed(self._split(self.k_proj(x)), self.k_norm).transpose(1, 2)
        # queries and keys of one token turn by the same angles: one rotation for both
        angles = cache.length * _frequencies(self.head_dim, self.theta, x.dtype, x.device)
        turned = turn(torch.cat([q, k], 1), angles.cos().repeat(2), _signed(angles.sin()))
        q, k = turned.split([self.num_heads, self.num_kv_heads], 1)
        held = cache.extend(k, self._split(v).transpose(1, 2), bias.squeeze(2))
        # the query heads of a key head become rows, so that one product serves the group
        rows = (held.keys.shape[0] * self.num_kv_heads, -1)
        scores = torch.baddbmm(
            held.bias.reshape(rows[0], 1, -1),
            q.reshape(*rows, self.head_dim),
            held.keys.flatten(0, 1).mT,
            alpha=self.head_dim**-0.5,
        )
        out = torch.bmm(scores.softmax(-1), held.values.flatten(0, 1))
        return self.o_proj(out.view(x.shape[0], 1, -1))

    def _split(self, x: Tensor) -> Tensor:
        """The last axis as heads and their channels."""
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        cache: DynamicMaskCache | None = None,
        positions: Int[Tensor, "..."] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch length width"]:
        """Causal self-attention.

        Args:
            mask: True = may be seen; (batch, length) padding of these tokens, or without a cache also four axes that broadcast.
            cache: what earlier calls left; updated in place. Per-query selection then equals the full forward, row by row.
            positions: rotary positions, (length,) or (batch, length); by default they go on from the cache.
            backend: as in `dynamic_mask_attention`.

        Returns:
            the tokens after attention, of the shape of `x`.

        Raises:
            ValueError: a width that differs, a mask that does not fit, or a cache made for another window.
        """
        if x.ndim != 3 or x.shape[-1] != self.q_proj.in_features:
            raise ValueError(f"expected (batch, length, {self.q_proj.in_features}), got {tuple(x.shape)}")
        if cache is not None and cache.window != self.window:
            raise ValueError(f"the cache keeps {cache.window} keys, this layer {self.window}")
        if cache is not None and mask is None and positions is None and backend == "auto" and self._decodes(x, cache):
            return self._decode(x, cache)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + x.shape[1], device=x.device)
        q, k, v, bias = self.project(x, rotary_angles(positions, self.head_dim, self.theta, x.dtype))
        if cache is not None:
            if mask is not None and mask.shape != x.shape[:2]:
                raise ValueError(
                    f"with a cache the mask must be (batch, length) = {tuple(x.shape[:2])}, got {tuple(mask.shape)}"
                )
            rows = cache.extend(k, v, bias.squeeze(2), mask)
            k, v, bias = rows.keys, rows.values, rows.bias[:, :, None]
            mask = rows.allowed[:, :, None] if cache.padded and not bool(rows.allowed.all()) else None
        out = dynamic_mask_attention(
            q,
            k,
            v,
            bias,
            window=self.window,
            causal=x.shape[1] > 1,
            mask=mask,
            selection=self.selection,
            dropout=self.dropout if self.training else 0.0,
            backend=backend,
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def kept(
        self, x: Float[Tensor, "batch length width"], *, mask: Bool[Tensor, "..."] | None = None
    ) -> Bool[Tensor, "batch heads length length"]:
        """Which keys each query keeps: a matrix, for looking at."""
        bias = self.project(x)[3]
        mask_of_keys = dynamic_mask(bias, window=self.window, mask=mask, selection=self.selection)
        return mask_of_keys.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """`norm(x)` written out: on the CPU torch's own takes as long as a product for one token."""
    assert norm.eps is not None
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight


@lru_cache(maxsize=64)
def _frequencies(width: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The angles of position 1; only asked for outside compilers and modes, so that nothing of theirs stays here."""
    with torch.inference_mode(False):
        return rotary_angles(torch.ones(1, device=device), width, theta, dtype)[0]


def _signed(sin: Tensor) -> Tensor:
    return torch.cat([-sin, sin])


def example(tokens: int) -> Example:
    """A layer of Doge-20M with a window of 256, for `core_attention.registry.catalogue`."""
    layer = DynamicMaskAttention(256, 2, num_kv_heads=1, window=256)
    nn.init.normal_(layer.A)  # 0 would tie all keys
    return Example(
        layer,
        (torch.randn(1, tokens, 256),),
        tokens=tokens,
        reference=lambda x: layer(x, backend="reference"),
        softmax=(256, 2),
    )
