"""The routine: checks, the choice of backend, the dense definition, and the merging of parts.

Three ways to say what a query sees: `RouteIndex`, a list of key blocks for each query block (bi-level routing, landmark retrieval,
top-k blocks); `RouteMask`, a boolean map of blocks (mixture of blocks by threshold); `RouteThreshold`, a score for each key and
a limit for each query. `routed_attention` builds neither a queries × keys array nor copies of the keys for each route;
`routed_attention_reference` builds the array, and is the definition that the others are tested against.
"""

from collections.abc import Sequence
from typing import Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core_attention.masks.checking import one_or
from core_attention.parts.transforms import differentiated
from core_attention.routed import flex, triton
from core_attention.routed.ops import as_tensors, routed
from core_attention.routed.routes import Routes, check_heads, check_routes, dense_mask

Backend = Literal["auto", "tiles", "triton", "flex", "reference"]


@overload
def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Routes,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Routes,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def routed_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    routes: Routes,
    *,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    key_bias: Float[Tensor, "bias_batch bias_heads keys"] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax over the union of the chosen keys: ``o_i = Σ_{j∈U(i)} exp(scale·q_i·k_j + bias_j − lse_i) v_j``.

    A query that sees no key gives 0 (and lse −inf). A not-a-number in a query stays in its own row. The choice itself
    carries no gradient.

    Args:
        q: queries; `heads` is a multiple of `kv_heads` (grouped queries; keys are never repeated).
        k: keys.
        v: values.
        routes: what each query block may see.
        causal: query i sees keys up to ``keys − queries + i`` (aligned at the end, as with a cache).
        key_mask: True where a key is real, False where it is padding.
        key_bias: added to the scaled scores, differentiable; batch is 1 or `batch`, heads 1 or `kv_heads`.
        scale: of the scores, default ``dim ** -0.5``.
        backend: "tiles" (torch, any device), "triton" (our kernel, CUDA), "flex" (FlexAttention, CUDA), "reference" (the dense
            definition), or "auto": triton on CUDA where it can, else tiles.
        return_lse: also return each row's log-sum-exp (float32; float64 for float64), with gradient, so that parts
            can be joined by `merge_attention`.

    Returns:
        the output, (batch, heads, queries, value_dim) in the dtype of `q`; with `return_lse` also the log-sum-exp, (batch, heads, queries),
        in float32 or wider.

    Raises:
        ValueError: shapes that do not fit one another, or an unknown backend.
        RuntimeError: the backend asked for cannot compute this; says why.
    """
    _check(q, k, v, routes, key_mask, key_bias)
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    implementation = _chosen(backend, q, v)
    if implementation == "reference":
        out, lse = routed_attention_reference(
            q, k, v, routes, causal=causal, key_mask=key_mask, key_bias=key_bias, scale=factor
        )
    elif implementation == "flex":
        out, lse = flex.run(q, k, v, key_bias, routes, key_mask, causal, factor)
    else:
        if key_bias is not None and implementation == "tiles":
            q, k = _fold_bias(q, k, key_bias, factor)
            key_bias = None
        tensors, *sizes = as_tensors(routes)
        out, lse = routed(q, k, v, key_bias, tensors, key_mask, *sizes, causal, factor, implementation == "triton")
    return (out, lse) if return_lse else out


def _chosen(backend: str, q: Tensor, v: Tensor) -> str:
    if backend == "auto":
        if differentiated():
            return "reference"
        return "tiles" if triton.why_not(q, v) or q.device.type != "cuda" else "triton"
    if backend not in ("tiles", "triton", "flex", "reference"):
        raise ValueError(f"unknown backend {backend!r}: one of auto, tiles, triton, flex, reference")
    reason = {"triton": triton.why_not, "flex": flex.why_not}.get(backend, lambda q, v: None)(q, v)
    if reason:
        raise RuntimeError(f"the backend {backend!r} cannot compute this: {reason}")
    return backend


def routed_attention_reference(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    routes: Routes,
    *,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    key_bias: Float[Tensor, "bias_batch bias_heads keys"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]:
    """The definition of `routed_attention`, dense, in at least float32: output and log-sum-exp.

    Returns:
        the output, and the log-sum-exp of each query.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    heads = q.shape[1]

    def spread(t: Tensor) -> Tensor:
        return t.repeat_interleave(heads // t.shape[1], 1) if not one_or(t.shape[1], heads) else t

    scores = q.to(wide) @ spread(k).to(wide).transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if key_bias is not None:
        scores = scores + spread(key_bias).to(wide)[:, :, None, :]
    mask = spread(dense_mask(routes, q.shape[2], k.shape[2], causal=causal, key_mask=key_mask))
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1) if k.shape[2] else scores.new_full(q.shape[:3], -torch.inf)
    # a row that sees nothing has weights 0 and no gradient
    nothing = ~mask.any(-1).expand(lse.shape)
    weights = (scores - lse.masked_fill(nothing, 0)[..., None]).exp()
    return (weights @ spread(v).to(wide)).to(q.dtype), lse


def merge_attention(
    parts: Sequence[tuple[Float[Tensor, "batch heads queries dim"], Float[Tensor, "batch heads queries"]]],
) -> tuple[Float[Tensor, "batch heads queries dim"], Float[Tensor, "batch heads queries"]]:
    """One attention from parts over disjoint keys: ``lse = log Σ exp(lse_p)``, ``o = Σ exp(lse_p − lse) o_p``.

    Args:
        parts: (output, log-sum-exp) of each part, as `routed_attention(..., return_lse=True)` gives them.

    Returns:
        the merged output, and its log-sum-exp.

    Raises:
        ValueError: no part.
    """
    if not parts:
        raise ValueError("nothing to merge: no part was given")
    lses = torch.stack([lse for _, lse in parts])
    top = lses.detach().amax(0)
    top = top.masked_fill(top == -torch.inf, 0)
    shares = (lses - top).exp()
    total = shares.sum(0)
    lse = total.log() + top
    weights = shares / total.masked_fill(total == 0, 1)
    out = sum(o * w[..., None].to(o.dtype) for (o, _), w in zip(parts, weights, strict=True))
    return out, lse  # type: ignore[return-value]


def _fold_bias(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A bias of keys as extra channels: the query holds 1, the key bias/scale; in half precision as a sum of two parts."""
    bias = (bias / scale).expand(k.shape[:3])
    if torch.finfo(k.dtype).bits < 32:
        coarse = bias.detach().to(k.dtype)
        parts = [coarse, (bias - coarse).to(k.dtype)]
    else:
        parts = [bias.to(k.dtype)]
    return F.pad(q, (0, len(parts)), value=1.0), torch.cat([k, torch.stack(parts, -1)], -1)


def _check(q: Tensor, k: Tensor, v: Tensor, routes: Routes, key_mask: Tensor | None, key_bias: Tensor | None) -> None:
    check_heads(q, k, v)
    shapes = f"queries {tuple(q.shape)}, keys {tuple(k.shape)}, values {tuple(v.shape)}"
    if key_mask is not None and tuple(key_mask.shape) != (k.shape[0], k.shape[2]):
        raise ValueError(f"key mask {tuple(key_mask.shape)} must be (batch, keys) for {shapes}")
    if key_bias is not None and (
        key_bias.ndim != 3
        or not one_or(key_bias.shape[0], k.shape[0])
        or not one_or(key_bias.shape[1], k.shape[1])
        or key_bias.shape[2] != k.shape[2]
    ):
        raise ValueError(f"key bias {tuple(key_bias.shape)} must be (1 or batch, 1 or key heads, keys) for {shapes}")
    check_routes(routes, q, k)
