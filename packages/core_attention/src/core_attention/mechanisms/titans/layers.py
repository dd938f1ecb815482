"""The layers of Titans (arXiv 2501.00663, figures 2–4): memory as context (MAC), as gate (MAG), as layer (MAL), and alone.

Each joins the three branches of the paper's figure: the core (attention in a window, `titans_attention`), the long-term memory
(`titans_memory`), and the persistent memory (learned tokens P put before the sequence). The layers have no residual and no outer norm.
"""

import sys
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.mechanisms.titans.attention import HeadProjections, Prefix, masked_attention, sliding_attention
from core_attention.mechanisms.titans.memory import MemoryCache, NeuralMemory
from core_attention.mechanisms.titans.projection import Projection, join
from core_attention.parts.cache import Cache
from core_attention.parts.placing import Device, placed
from core_attention.parts.transforms import readable

ReadMode = Literal["token", "previous", "segment_end"]


@dataclass
class TitansCache(Cache):
    """State of a layer between calls.

    Attributes:
        memory: of the long-term memory.
        keys, values: of the attention: the last window (MAG, MAL), or the running segment (MAC).
        context: keys and values of what MAC retrieved for the running segment.
        prefix: keys and values of the persistent tokens.
        projection: of the window's attention; it belongs to no sample and is neither reordered nor saved.
    """

    memory: MemoryCache = field(default_factory=MemoryCache)
    keys: Tensor | None = None
    values: Tensor | None = None
    context: tuple[Tensor, ...] | None = None
    prefix: tuple[Tensor, ...] | None = None
    projection: Projection | None = None


class Gate(nn.Module):
    """y ⊗ m = σ(RMSNorm(y)) · RMSNorm(m), with a learned gain each (paper eq. 25, 28)."""

    @placed
    def __init__(self, dim: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.core_norm, self.memory_norm = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """What attention and the memory say, as one.

        Returns:
            y ⊗ m, of the shape of either.
        """
        # autocast mixes dtypes
        y, m = (t.to(norm.weight.dtype) for t, norm in ((y, self.core_norm), (m, self.memory_norm)))
        return self.core_norm(y).sigmoid() * self.memory_norm(m)


class _Branches(nn.Module):
    """The three branches that every layer has; arguments as in `MemoryAsContext`."""

    @placed
    def __init__(
        self,
        dim: int,
        *,
        memory: NeuralMemory,
        window: int,
        num_heads: int = 1,
        num_persistent: int = 4,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if window < 1 or num_persistent < 0 or memory.dim != dim:
            raise ValueError(
                f"window is at least 1, num_persistent not negative, and the memory as wide as the layer; got {window}, "
                f"{num_persistent}, and widths {memory.dim} and {dim}"
            )
        self.dim, self.window = dim, window
        self.memory = memory
        self.attention = HeadProjections(dim, num_heads)
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim) * 0.02)

    def new_cache(self) -> TitansCache:
        """An empty state."""
        return TitansCache(self.memory.new_cache())

    def _start(self, x: Tensor, mask: Tensor | None, cache: TitansCache | None) -> TitansCache:
        cache = self.new_cache() if cache is None else cache
        self.memory.check(x, cache.memory)
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ValueError(f"mask is (batch, time) = {tuple(x.shape[:2])}; got {tuple(mask.shape)}")
            if readable(mask) and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
                raise ValueError("mask marks padding at the end of the sequences: no token that counts may follow it")
        return cache

    def _persistent(self, x: Tensor) -> Tensor:
        """P for every sample, (batch, num_persistent, dim)."""
        return self.persistent.to(x.dtype).repeat(len(x), 1, 1)

    def _prefix(self, tokens: Tensor) -> Prefix | None:
        return self.attention.keys_values(tokens) if tokens.shape[1] else None

    def _learned_prefix(self, x: Tensor, cache: TitansCache) -> Prefix | None:
        """Keys and values of P as it is learned. They do not depend on x: without gradients they are computed once a sequence."""
        if torch.is_grad_enabled() or cache.prefix is None:
            prefix = self._prefix(self._persistent(x))
            cache.prefix = None if torch.is_grad_enabled() else prefix
            return prefix
        return cache.prefix[0], cache.prefix[1]

    def _with_persistent(self, x: Tensor, mask: Tensor | None, cache: TitansCache) -> tuple[Tensor, Tensor | None, int]:
        """z = [P ‖ x] where the sequence begins, x where it goes on; its mask; and the number of persistent tokens in it."""
        count = 0 if cache.memory.memory is not None else len(self.persistent)
        if count == 0:
            return x, mask, 0
        mask = None if mask is None else nn.functional.pad(mask, (count, 0), value=True)
        return torch.cat([self._persistent(x), x], 1), mask, count

    def _window(self, x: Tensor, prefix: Prefix | None, cache: TitansCache) -> Tensor:
        """Sliding-window attention over x, the past in the cache, and the prefix."""
        q, k, v = self._queries_keys_values(x, cache)
        window, of_prefix = self.window, 0
        if cache.keys is not None and cache.values is not None:
            keys, values = [cache.keys, k], [cache.values, v]
            if (
                x.shape[1] == 1 and prefix is not None
            ):  # a decoded token sees all that is held: prefix and past are joined once
                keys, values = [prefix[0], *keys], [prefix[1], *values]
                of_prefix, prefix = prefix[0].shape[2], None
                window = sys.maxsize
            k, v = torch.cat(keys, 2), torch.cat(values, 2)
        keep = max(of_prefix, k.shape[2] - self.window + 1)
        cache.keys, cache.values = k[:, :, keep:], v[:, :, keep:]
        return self.attention.merge(sliding_attention(q, k, v, window=window, prefix=prefix))

    def _queries_keys_values(self, x: Tensor, cache: TitansCache) -> tuple[Tensor, Tensor, Tensor]:
        """Of the window; by one product where a token is decoded. The joined weights are made anew for every chunk, as the memory's are."""
        joined = None
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            before = cache.projection if cache.memory.pending.count > 1 else None
            joined = cache.projection = join(self.attention.reading, x, before)
        if joined is None:
            return self.attention.queries(x), *self.attention.keys_values(x)
        return self.attention.queries_keys_values(x, joined)


class MemoryAsContext(_Branches):
    """MAC (paper eq. 21–25): what the memory knows of a segment is put before it, and attention's output is written back.

    For each segment S of `window` tokens, with M the memory before it: h = M(q(S)); y = attention of S over [P ‖ h ‖ S]; y is written;
    o = y ⊗ (the memory read with q(y)).

    Args:
        dim: width.
        memory: with chunk_size = window.
        window: tokens of a segment.
        num_heads: of the attention.
        num_persistent: learned tokens.
        read: the memory that the last step reads. "token": after this token's own write, causal; "previous": before the segment,
            causal; "segment_end": after the whole segment, the paper's figure, in which a token sees the later ones of its segment.
        context: "full": every token of the segment sees all of h; "causal": only what was retrieved with the tokens up to it.
            Default "causal" where `read` is, so that the layer does not leak; "full" with "segment_end".
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: a memory with another chunk size or width.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        memory: NeuralMemory,
        window: int,
        num_heads: int = 1,
        num_persistent: int = 4,
        read: ReadMode = "token",
        context: Literal["full", "causal"] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, memory=memory, window=window, num_heads=num_heads, num_persistent=num_persistent)
        if memory.chunk_size != window:
            raise ValueError(
                f"the memory's chunk is the segment; got chunk_size {memory.chunk_size} and window {window}"
            )
        if read not in ("token", "previous", "segment_end") or context not in (None, "full", "causal"):
            raise ValueError(f"read or context is unknown; got {read!r} and {context!r}")
        self.read = read
        self.context = context or ("full" if read == "segment_end" else "causal")
        self.gate = Gate(dim)

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later token; then a sequence may be cut anywhere, else at segment ends."""
        return self.context == "causal" and self.read != "segment_end"

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: TitansCache | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Tokens (batch, time, dim); `mask` False marks padding at the end, which is kept out of the memory.

        Calls that continue one cache equal one call; a layer that is not `causal` must be cut at ends of segments.

        Raises:
            ValueError: a wrong shape, padding before tokens, or a continued segment of a layer that is not causal.
        """
        cache = self._start(x, mask, cache)
        place = cache.memory.position
        if place and not self.causal:
            raise ValueError(
                f"this layer needs whole segments of {self.window} tokens; the last call ended after {place} of one"
            )
        sizes = [min(self.window - place, x.shape[1])]
        sizes += [self.window] * ((x.shape[1] - sizes[0]) // self.window)
        sizes += [x.shape[1] - sum(sizes)] if x.shape[1] > sum(sizes) else []
        prefix = self._learned_prefix(x, cache)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, 1)
        outs = [self._segment(part, m, prefix, cache) for part, m in zip(x.split(sizes, 1), masks, strict=True)]
        return torch.cat(outs, 1)

    def _segment(self, x: Tensor, mask: Tensor | None, prefix: Prefix | None, cache: TitansCache) -> Tensor:
        """One segment, or the next tokens of one."""
        past = cache.memory.position
        retrieved = self.memory.read(x, cache=cache.memory, at="chunk start")
        own, context = self.attention.keys_values(x), self.attention.keys_values(retrieved)
        if past and cache.keys is not None and cache.values is not None and cache.context is not None:
            own = tuple(torch.cat(pair, 2) for pair in zip((cache.keys, cache.values), own, strict=True))
            context = tuple(torch.cat(pair, 2) for pair in zip(cache.context, context, strict=True))
        cache.keys, cache.values, cache.context = own[0], own[1], context
        until = torch.ones(x.shape[1], past + x.shape[1], dtype=torch.bool, device=x.device).tril(past)
        visible = torch.cat([until if self.context == "causal" else torch.ones_like(until), until], 1)
        k, v = (torch.cat(pair, 2) for pair in zip(context, own, strict=True))
        y = self.attention.merge(masked_attention(self.attention.queries(x), k, v, mask=visible, prefix=prefix))
        if self.read == "token":
            return self.gate(y, self.memory(y, mask=mask, cache=cache.memory))
        if self.read == "previous":
            m = self.memory.read(y, cache=cache.memory, at="chunk start", stream="written")
            self.memory.write(y, mask=mask, cache=cache.memory)
            return self.gate(y, m)
        self.memory.write(y, mask=mask, cache=cache.memory)
        return self.gate(y, self.memory.read(y, cache=cache.memory, stream="written"))


class MemoryAsGate(_Branches):
    """MAG (paper eq. 26–28): o = y ⊗ m, sliding-window attention beside the memory over [P ‖ x].

    Args as in `MemoryAsContext`; `window` is that of the attention.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        memory: NeuralMemory,
        window: int,
        num_heads: int = 1,
        num_persistent: int = 4,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, memory=memory, window=window, num_heads=num_heads, num_persistent=num_persistent)
        self.gate = Gate(dim)

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: TitansCache | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """As `MemoryAsContext.forward`; causal, cut anywhere."""
        cache = self._start(x, mask, cache)
        z, z_mask, count = self._with_persistent(x, mask, cache)
        m = self.memory(z, mask=z_mask, cache=cache.memory)[:, count:]
        return self.gate(self._window(x, self._learned_prefix(x, cache), cache), m)


class MemoryAsLayer(_Branches):
    """MAL (paper eq. 29–31): sliding-window attention on what the memory made of [P ‖ x]; no gate. Args as in `MemoryAsGate`."""

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: TitansCache | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """As `MemoryAsContext.forward`; causal, cut anywhere."""
        cache = self._start(x, mask, cache)
        z, z_mask, count = self._with_persistent(x, mask, cache)
        u = self.memory(z, mask=z_mask, cache=cache.memory)
        if count:
            cache.prefix = self._prefix(u[:, :count])
        prefix = None if cache.prefix is None else (cache.prefix[0], cache.prefix[1])
        return self._window(u[:, count:], prefix, cache)


def titans_layer(
    variant: Literal["mac", "mag", "mal", "lmm"],
    dim: int,
    *,
    window: int = 64,
    num_heads: int = 1,
    num_persistent: int = 4,
    read: ReadMode = "token",
    context: Literal["full", "causal"] | None = None,
    memory_heads: int = 1,
    **memory: object,
) -> MemoryAsContext | MemoryAsGate | MemoryAsLayer | NeuralMemory:
    """One of the four layers with a memory of its own.

    Args:
        variant: memory as context, as gate, as layer, or the memory alone.
        dim, window, num_heads, num_persistent: as in `MemoryAsContext`; the memory's chunk is the window.
        read, context: of MAC.
        memory_heads: heads of the memory; `num_heads` are those of the attention, which the memory alone does not have.
        memory: further arguments of `NeuralMemory` (depth, expansion, theta_max …).

    Raises:
        ValueError: an unknown variant.
    """
    lmm = NeuralMemory(dim, num_heads=memory_heads, chunk_size=window, **memory)  # pyright: ignore[reportArgumentType]
    if variant == "lmm":
        return lmm
    if variant == "mac":
        return MemoryAsContext(
            dim,
            memory=lmm,
            window=window,
            num_heads=num_heads,
            num_persistent=num_persistent,
            read=read,
            context=context,
        )
    classes = {"mag": MemoryAsGate, "mal": MemoryAsLayer}
    if variant not in classes:
        raise ValueError(f"variant is mac, mag, mal or lmm; got {variant!r}")
    return classes[variant](dim, memory=lmm, window=window, num_heads=num_heads, num_persistent=num_persistent)


def _example(variant: Literal["mac", "mag", "mal", "lmm"], tokens: int) -> Example:
    layer = titans_layer(variant, 384, num_heads=6)
    return Example(layer, (torch.randn(1, tokens, 384),), tokens=tokens, softmax=(384, 6))


def mac_example(tokens: int) -> Example:
    """Memory as context, segments of 64."""
    return _example("mac", tokens)


def mag_example(tokens: int) -> Example:
    """Memory as gate, window 64."""
    return _example("mag", tokens)


def mal_example(tokens: int) -> Example:
    """Memory as layer, window 64."""
    return _example("mal", tokens)


def lmm_example(tokens: int) -> Example:
    """The memory alone, chunks of 64."""
    return _example("lmm", tokens)
