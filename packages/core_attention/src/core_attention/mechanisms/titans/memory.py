"""The long-term memory module of Titans: projections, gates, and the recurrence of `titans_recurrence`."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear, normalize, silu

from core_attention.mechanisms.titans import network
from core_attention.mechanisms.titans.decoding import Pending, write_and_read
from core_attention.mechanisms.titans.projection import join
from core_attention.mechanisms.titans.recurrence import MemoryState, neural_memory
from core_attention.parts.placing import Device, placed
from core_attention.parts.transforms import readable


@dataclass
class MemoryCache(MemoryState):
    """State of a `NeuralMemory` between calls: the memory's, and what convolutions and shared gates need of the tokens before.

    Attributes:
        gates: α, η, θ of the running chunk where they are shared in a chunk, (batch, heads, 3).
        tails: the last tokens that the convolutions of q, k, v and of reading alone have seen, (batch, kernel − 1, inner) each.
        surprise: of the last call: ‖M(k_t) − v_t‖² of each token, (batch, heads, time); not needed to continue.
    """

    gates: Tensor | None = None
    q_tail: Tensor | None = None
    k_tail: Tensor | None = None
    v_tail: Tensor | None = None
    read_tail: Tensor | None = None
    surprise: Tensor | None = None


class ShortConv(nn.Conv1d):
    """Depthwise causal convolution over time, (batch, time, channels), as in the paper's models after each projection."""

    @placed
    def __init__(self, channels: int, kernel: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(channels, channels, kernel, groups=channels)

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The convolved tokens, and the tail for the next call.

        Returns:
            the convolved tokens (batch, time, channels), and the tail (batch, kernel − 1, channels).
        """
        before = self.kernel_size[0] - 1
        tail = x.new_zeros(x.shape[0], before, x.shape[2]) if tail is None else tail
        window = torch.cat([tail, x], 1)
        out = conv1d(window.mT, self.weight, self.bias, groups=self.groups).mT
        return out, window[:, window.shape[1] - before :]


def _convolved(conv: ShortConv | None, projected: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The projection (batch, time, inner), convolved if there is a convolution, and the tail of that."""
    return (projected, tail) if conv is None else conv(projected, tail)


class NeuralMemory(nn.Module):
    """Neural long-term memory (paper §3): k, q = normalised SiLU(x W), v = SiLU(x W), gates α, η = σ(x w + b), θ = θ_max σ(x w + b).

    Defaults are numerically safe: the state is float32 or wider, step sizes are small and the gradient of every token is clamped
    softly, so that the memory stays bounded whatever it reads. The published recurrence is `max_grad_norm=None`.

    Args:
        dim: width of the tokens.
        num_heads, head_dim: independent memories, and their width (default dim / heads). With more than one head, another width or
            `gated_output`, a projection without bias leads back to dim.
        depth: layers of the memory; 1 is a linear memory. The paper finds deeper better on long contexts, and slower.
        expansion: hidden width of the memory over head_dim.
        chunk_size: tokens whose gradients are taken at the same memory; 1 is the exact recurrence.
        theta_max: upper bound of the step size.
        max_grad_norm: soft clamp of each token's gradient of each matrix (`neural_memory`); None: unclamped.
        gates: "token": each token its own α, η, θ; "chunk": those of the chunk's first token.
        conv_kernel: depthwise causal convolution after each projection; 4 in the paper's models, None: none.
        gated_output: RMS-normalise what is read and gate it with σ(x W_g) before the last projection, as in the paper's models.
        check_finite: raise if the memory stops being finite (one synchronisation a call; skipped under torch.compile).
        recompute: as in `neural_memory`.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not divide dim, or sizes below 1.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 1,
        head_dim: int | None = None,
        depth: int = 2,
        expansion: float = 4.0,
        chunk_size: int = 64,
        theta_max: float = 0.1,
        max_grad_norm: float | None = 1.0,
        gates: Literal["token", "chunk"] = "token",
        conv_kernel: int | None = None,
        gated_output: bool = False,
        check_finite: bool = True,
        recompute: bool | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and (num_heads < 1 or dim % num_heads):
            raise ValueError(f"num_heads divides dim, or head_dim is given; got {num_heads} and {dim}")
        width = dim // num_heads if head_dim is None else head_dim
        if min(dim, num_heads, width, depth, chunk_size, conv_kernel or 1) < 1 or int(width * expansion) < 1:
            raise ValueError(
                "dim, num_heads, head_dim, depth, chunk_size, conv_kernel and the hidden width are at least 1; got "
                f"{(dim, num_heads, width, depth, chunk_size, conv_kernel, int(width * expansion))}"
            )
        if gates not in ("token", "chunk"):
            raise ValueError(f'gates are "token" or "chunk"; got {gates!r}')
        self.dim, self.num_heads, self.head_dim, self.chunk_size = dim, num_heads, width, chunk_size
        self.theta_max, self.max_grad_norm, self.gates = theta_max, max_grad_norm, gates
        self.check_finite, self.recompute = check_finite, recompute
        inner = num_heads * width
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.q_conv, self.k_conv, self.v_conv = (
            ShortConv(inner, conv_kernel) if conv_kernel else None for _ in range(3)
        )
        self.to_alpha, self.to_eta, self.to_theta = (nn.Linear(dim, num_heads) for _ in range(3))
        widths = [width, *[int(width * expansion)] * (depth - 1), width]
        self.memory = nn.ParameterList(torch.randn(num_heads, a, b) * a**-0.5 for a, b in pairwise(widths))
        self.out_norm = nn.RMSNorm(width, eps=1e-6) if gated_output else None
        self.out_gate = nn.Linear(dim, inner, bias=False) if gated_output else None
        self.out = nn.Linear(inner, dim, bias=False) if num_heads > 1 or inner != dim or gated_output else None
        self.reset_gates()

    def reset_gates(self) -> None:
        """Slow forgetting, long momentum, half the greatest step: α ≈ 0.02, η ≈ 0.9, θ = θ_max / 2, at first the same for every token."""
        for gate, bias in ((self.to_alpha, -4.0), (self.to_eta, 2.2), (self.to_theta, 0.0)):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, bias)

    def new_cache(self) -> MemoryCache:
        """An empty state: the memory is the learned initial one."""
        return MemoryCache(pending=Pending())  # Dynamo makes no default of a dataclass

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: MemoryCache | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Writes every token and reads it back with the memory after it: y_t = M_t(q_t).

        Args:
            x: tokens (batch, time, dim).
            mask: False marks tokens that leave the memory as it is.
            cache: the state, updated in place; calls that continue one cache equal one call, wherever the sequence is cut.

        Returns:
            what each token reads, of the shape of `x`.

        Raises:
            ValueError: wrong shapes.
            FloatingPointError: the memory is not finite any more; names the samples, and whether the input was finite.
        """
        self.check(x, cache)
        cache = self.new_cache() if cache is None else cache
        if mask is None and self._decodes(x, cache):
            return self._output(self._decode(x, cache), x)
        q, cache.q_tail = self._projected(self.to_q, self.q_conv, x, cache.q_tail)
        y = self._advance(normalize(q, dim=-1), x, mask, cache)
        assert y is not None
        return self._output(y, x)

    def write(
        self, x: Float[Tensor, "..."], *, mask: Bool[Tensor, "batch time"] | None = None, cache: MemoryCache
    ) -> None:
        """Writes every token without reading."""
        self.check(x, cache)
        self._advance(None, x, mask, cache)

    def read(
        self,
        x: Float[Tensor, "..."],
        *,
        cache: MemoryCache | None = None,
        at: Literal["now", "chunk start"] = "now",
        stream: Literal["read", "written"] = "read",
    ) -> Float[Tensor, "batch time dim"]:
        """Reads with every token and writes nothing: M(q_t) for the memory as it is, or as it was when the running chunk began.

        `stream` says whose past the convolution of the queries continues: that of tokens only read with, or that of tokens written.
        """
        self.check(x, cache)
        tail = "read_tail" if stream == "read" else "q_tail"
        before = None if cache is None else getattr(cache, tail)
        q, after = self._projected(self.to_q, self.q_conv, x, before)
        if cache is not None:
            setattr(cache, tail, after)
        with network.full_precision(q):
            state = None
            if cache is not None:
                if at == "now":
                    cache.settle()
                state = cache.memory if at == "now" or cache.position == 0 else cache.reference
            q = normalize(q, dim=-1).to(torch.promote_types(q.dtype, torch.float32))
            matrices = tuple(w.to(q.dtype) for w in self.memory) if state is None else state
            y = network.forward(q, network.Weights(matrices))
        return self._output(y, x)

    def _advance(self, q: Tensor | None, x: Tensor, mask: Tensor | None, cache: MemoryCache) -> Tensor | None:
        k, cache.k_tail = self._projected(self.to_k, self.k_conv, x, cache.k_tail)
        v, cache.v_tail = self._projected(self.to_v, self.v_conv, x, cache.v_tail)
        alpha, eta, theta = self._gates(x, cache)
        done = neural_memory(
            q,
            normalize(k, dim=-1),
            v,
            alpha=alpha,
            eta=eta,
            theta=theta,
            weights=tuple(self.memory),
            chunk_size=self.chunk_size,
            state=cache,
            mask=mask,
            max_grad_norm=self.max_grad_norm,
            recompute=self.recompute,
        )
        if self.check_finite and readable(x):
            self._check_finite(x, done.state)
        cache.memory, cache.momentum, cache.reference, cache.position, cache.surprise = (
            done.state.memory,
            done.state.momentum,
            done.state.reference,
            done.state.position,
            done.surprise,
        )
        return done.y

    def _decodes(self, x: Tensor, cache: MemoryCache) -> bool:
        """Whether a call goes on by one token without gradients: it then costs no weight set (`decoding`)."""
        begun = cache.memory is not None and cache.momentum is not None and cache.reference is not None
        return begun and x.shape[1] == 1 and not torch.is_grad_enabled() and readable(x)

    def _decode(self, x: Tensor, cache: MemoryCache) -> Tensor:
        """One more token, written and read; the weight sets are written where its chunk ends."""
        projected, gates = self._projected_together(x, cache)
        if self.k_conv is not None:
            k, q, v = projected.chunk(3, -1)
            k, cache.k_tail = _convolved(self.k_conv, k, cache.k_tail)
            q, cache.q_tail = _convolved(self.q_conv, q, cache.q_tail)
            v, cache.v_tail = _convolved(self.v_conv, v, cache.v_tail)
            projected = torch.cat([k, q, v], -1)
        assert cache.memory is not None
        assert cache.momentum is not None
        if cache.position == 0:
            cache.reference = cache.memory
        assert cache.reference is not None
        together = silu(projected).view(x.shape[0], 3, self.num_heads, self.head_dim).transpose(1, 2)
        wide = torch.promote_types(together.dtype, torch.float32)
        with network.full_precision(x):
            directions, values = together[:, :, :2], together[:, :, 2:]
            directions = directions / torch.linalg.vector_norm(directions, dim=-1, keepdim=True).clamp_min_(1e-12)
            y, cache.surprise = write_and_read(
                directions.to(wide),
                values.to(wide),
                gates.to(wide),
                memory=cache.memory,
                momentum=cache.momentum,
                reference=cache.reference,
                pending=cache.pending,
                room=self.chunk_size - cache.position,
                max_grad_norm=self.max_grad_norm,
            )
            cache.position = (cache.position + 1) % self.chunk_size
            if cache.position == 0:
                cache.settle()
        # a write that is not finite shows in what is read; what overflows in the sum of the writes shows where the chunk ends
        if self.check_finite and (cache.position == 0 or not math.isfinite(float(y.sum()))):
            cache.settle()
            self._check_finite(x, cache)
        return y

    def _projected(self, project: nn.Linear, conv: ShortConv | None, x: Tensor, tail: Tensor | None):
        """SiLU of the (convolved) projection, (batch, heads, time, width), and the convolution's tail."""
        out, tail = _convolved(conv, project(x), tail)
        return silu(out).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2), tail

    def _projected_together(self, x: Tensor, cache: MemoryCache) -> tuple[Tensor, Tensor]:
        """The projections of one token to k, q and v, joined (batch, 1, 3 · inner), and the gates of `_gates`, by one product where that is the same.

        One token's product takes less time than the call around it. The joined weights are made anew for every chunk.
        """
        layers = (self.to_k, self.to_q, self.to_v, self.to_alpha, self.to_eta, self.to_theta)
        joined = join(layers, x, cache.pending.projection if cache.pending.count else None)
        if joined is None:
            return torch.cat([layer(x) for layer in layers[:3]], -1), self._gates(x, cache)
        cache.pending.projection = joined
        projected, inner = joined(x), self.num_heads * self.head_dim
        gates = projected[..., 3 * inner :].sigmoid()
        gates[..., 2 * self.num_heads :].mul_(self.theta_max)
        return projected[..., : 3 * inner], self._shared_gates(gates, cache)

    def _gates(self, x: Tensor, cache: MemoryCache) -> Tensor:
        """α, η and θ, (3, batch, heads, time)."""
        with network.full_precision(x):
            wide = x.to(torch.promote_types(x.dtype, self.to_alpha.weight.dtype))
            linears = (self.to_alpha, self.to_eta, self.to_theta)
            weight, bias = torch.cat([gate.weight for gate in linears]), torch.cat([gate.bias for gate in linears])
            rates, theta = linear(wide, weight, bias).sigmoid().split([2 * self.num_heads, self.num_heads], -1)
            return self._shared_gates(torch.cat([rates, theta * self.theta_max], -1), cache)

    def _shared_gates(self, gates: Tensor, cache: MemoryCache) -> Tensor:
        """(batch, time, 3 · heads) → (3, batch, heads, time); shared in a chunk where the layer says so."""
        gates = gates.view(*gates.shape[:2], 3, self.num_heads).permute(2, 0, 3, 1)
        if self.gates == "token":
            return gates
        before = gates.new_zeros(*gates.shape[:3]) if cache.gates is None else cache.gates.permute(2, 0, 1)
        gates = torch.cat([before[..., None], gates], -1)  # place 0: the gates of the chunk that is already running
        time = torch.arange(gates.shape[-1] - 1, device=gates.device)
        start = time - (cache.position + time) % self.chunk_size
        gates = gates.index_select(-1, (start + 1).clamp_min(0))
        cache.gates = gates[..., -1].permute(1, 2, 0)
        return gates

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        if self.out_norm is not None:
            y = self.out_norm(y.to(self.out_norm.weight.dtype))
        y = y.transpose(1, 2).flatten(2).to(x.dtype)
        if self.out_gate is not None:
            y = y * self.out_gate(x).sigmoid()
        return y if self.out is None else self.out(y)

    def check(self, x: Tensor, cache: MemoryCache | None = None) -> None:
        """Raises ValueError if x is not (batch, time ≥ 1, dim), or the cache is of another batch."""
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != self.dim:
            raise ValueError(f"x is (batch, time, {self.dim}) with at least one time step; got {tuple(x.shape)}")
        if cache is not None and cache.memory is not None and cache.memory[0].shape[0] != x.shape[0]:
            raise ValueError(f"the cache is of {cache.memory[0].shape[0]} samples; got x of shape {tuple(x.shape)}")

    def _check_finite(self, x: Tensor, state: MemoryState) -> None:
        assert state.memory is not None
        sums = torch.stack([w.detach().sum((1, 2, 3)) for w in state.memory])
        if bool(torch.isfinite(sums).all()):
            return
        rows = (~torch.isfinite(sums).all(0)).nonzero()[:, 0].tolist()
        source = (~torch.isfinite(x.detach()).all(-1).all(-1)).nonzero()[:, 0].tolist()
        if source:
            raise FloatingPointError(f"x has values that are not finite in samples {source}; their memory is lost")
        raise FloatingPointError(
            f"the memory of samples {rows} is not finite any more: set max_grad_norm (it is {self.max_grad_norm}), or lower "
            f"theta_max ({self.theta_max})"
        )
