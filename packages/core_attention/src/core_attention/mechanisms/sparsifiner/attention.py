"""The attention layer that `MaskPredictor` makes sparse (Sparsifiner), with the pruning of tokens beside it."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.capture.recording import active, paused, record
from core_attention.measuring.example import Example
from core_attention.mechanisms.sparsifiner.predictor import Connectivity, MaskPredictor
from core_attention.parts.largest import largest
from core_attention.parts.placing import Device, placed
from core_attention.pretrained.convert import Layer
from core_attention.routed.attention import routed_attention
from core_attention.routed.routes import RouteIndex

GATHER_BELOW = 1 / 32  # share of keys below which gathering them beats a dense mask


Path = Literal["auto", "gather", "mask"]


def sparse_attention(
    q: Float[Tensor, "batch heads tokens dim"],
    k: Float[Tensor, "batch heads tokens dim"],
    v: Float[Tensor, "batch heads tokens value_dim"],
    predictor: MaskPredictor,
    *,
    scale: float | None = None,
    token_mask: Bool[Tensor, "batch patches"] | None = None,
    path: Path = "auto",
    dropout: float = 0.0,
    mask: Bool[Tensor, "batch heads tokens tokens"] | None = None,
) -> Float[Tensor, "batch heads tokens value_dim"]:
    """Softmax attention over the pairs that `predictor` connects; the class token, first, attends to all.

    Args:
        q: queries, whose rows of dead tokens are 0.
        k: keys, likewise.
        v: values, likewise.
        predictor: see there; it gets no gradient.
        scale: default ``dim ** -0.5``.
        token_mask: who is alive.
        path: "gather" lists of keys, a dense "mask", or whichever is faster for the numbers of tokens and keys.
        dropout: of the weights, on the mask path.
        mask: the connections, if they are known.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: dropout, or connections by a score threshold, on the gather path.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if active():
        _record(predictor, q, k, token_mask, factor)
    with paused():
        return _computed(q, k, v, predictor, factor, token_mask, path, dropout, mask)


def _computed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    predictor: MaskPredictor,
    scale: float,
    token_mask: Tensor | None,
    path: Path,
    dropout: float,
    mask: Tensor | None,
) -> Tensor:
    gathers = path == "gather"
    if path == "auto":
        # lists of keys win where they are short; they need a fixed length, and know neither dropout nor a given mask
        few = predictor.budget <= GATHER_BELOW * predictor.num_tokens
        gathers = few and predictor.score_threshold is None and not dropout and mask is None
    if gathers:
        if dropout:
            raise ValueError("dropout of the weights exists on the mask path only")
        # the class token attends to all, so only patches have lists
        lists = predictor.index(q, k, token_mask=token_mask)
        rest = routed_attention(q[:, :, 1:], k, v, RouteIndex(lists, 1, 1), scale=scale)
        return torch.cat([attention(q[:, :, :1], k, v, scale=scale), rest], 2)
    if mask is None:
        with torch.no_grad():  # the predictor learns from its own losses
            connected = predictor(q, k, token_mask=token_mask).mask
    else:
        connected = mask
    if not dropout:
        return attention(q, k, v, mask=connected, scale=scale)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=connected, dropout_p=dropout, scale=scale)
    # torch's answer for a row without keys depends on the kernel
    return out.masked_fill(~connected.any(-1, keepdim=True), 0)


class Sparse(NamedTuple):
    """What a layer computed.

    `token_mask` (batch, tokens − 1) tells who is alive after the layer; None if nobody was ever pruned. `connectivity` and
    `weights` (the unmasked softmax attention, batch, heads, tokens, tokens) only where details were asked for.
    """

    y: Tensor
    token_mask: Tensor | None
    connectivity: Connectivity | None
    weights: Tensor | None


class SparsifinerAttention(nn.Module):
    """Self-attention of a vision transformer over predicted pairs only.

    Args:
        dim: width.
        num_heads: heads.
        num_tokens: tokens with the class token.
        qkv_bias: bias of the joint projection.
        scale: of the scores; default ``(dim / num_heads) ** -0.5``.
        attn_drop: dropout of the weights in training, on the mask path; the published DeiT has none, LV-ViT has.
        token_keep_rate: after this layer only ``ceil(rate · (num_tokens − 1))`` patches stay alive, those that the class
            token attends to most; None prunes nobody.
        path: how the pairs are computed: "gather" lists of keys, a dense "mask", or whichever is faster for N and k.
        predictor: options of `MaskPredictor`.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        num_tokens: int = 197,
        qkv_bias: bool = False,
        scale: float | None = None,
        attn_drop: float = 0.0,
        token_keep_rate: float | None = None,
        path: Path = "auto",
        device: Device = None,
        dtype: torch.dtype | None = None,
        **predictor,
    ):
        super().__init__()
        self.mask_predictor = MaskPredictor(dim, num_heads=num_heads, num_tokens=num_tokens, **predictor)
        if path not in ("auto", "gather", "mask"):
            raise ValueError(f"path is 'auto', 'gather' or 'mask', got {path!r}")
        if token_keep_rate is not None and not 0 < token_keep_rate <= 1:
            raise ValueError(f"token_keep_rate is above 0 and at most 1, got {token_keep_rate}")
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.path: Path = path
        self.scale = (dim // num_heads) ** -0.5 if scale is None else scale
        self.token_keep_rate = token_keep_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], *, token_mask: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """y of the shape of `x`; see `detailed` for pruning, warm-up and the maps."""
        return self.detailed(x, token_mask=token_mask).y

    def detailed(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        token_mask: Bool[Tensor, "batch patches"] | None = None,
        warm_up: bool = False,
        details: bool = False,
        predictor: MaskPredictor | None = None,
    ) -> Sparse:
        """y, who is alive after this layer, and the maps on request.

        Args:
            x: tokens, the class token first.
            token_mask: who is alive (True), class token excluded. Queries, keys and values of the dead are 0; nobody prunes
                during warm-up.
            warm_up: dense attention while only the predictor learns.
            details: also `connectivity`, differentiable, and the unmasked `weights`; both are tokens × tokens.
            predictor: another one than the layer's own, see `predictor_at`.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if token_mask is not None and not warm_up:
            alive = F.pad(token_mask, (1, 0), value=True)[:, None, :, None]
            q, k, v = (t.masked_fill(~alive, 0) for t in (q, k, v))
        predictor = self.mask_predictor if predictor is None else predictor
        connections = predictor(q, k, token_mask=token_mask, warm_up=warm_up) if details else None
        if warm_up:
            out = attention(q, k, v, scale=self.scale)
        else:
            out = sparse_attention(
                q,
                k,
                v,
                predictor,
                scale=self.scale,
                token_mask=token_mask,
                path=self.path,
                dropout=self.attn_drop if self.training else 0.0,
                mask=None if connections is None else connections.mask,
            )
        weights = None
        if details:
            weights = (q * self.scale @ k.transpose(2, 3)).softmax(-1)
        y = self.proj(out.transpose(1, 2).flatten(2))
        if self.token_keep_rate is not None and not warm_up:
            token_mask = self._pruned(q, k, token_mask, math.ceil(self.token_keep_rate * (x.shape[1] - 1)))
        return Sparse(y, token_mask, connections, weights)

    def _pruned(self, q: Tensor, k: Tensor, token_mask: Tensor | None, count: int) -> Bool[Tensor, "batch patches"]:
        """The `count` patches that the class token attends to most, over all heads; of equal ones the first."""
        with torch.no_grad():
            score = (q[:, :, :1] * self.scale @ k.transpose(2, 3)).softmax(-1)[:, :, 0, 1:].mean(1)
            if token_mask is not None:
                score = score.masked_fill(~token_mask, -torch.inf)
            best = largest(score, count).index
            return torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)


def _record(predictor: MaskPredictor, q: Tensor, k: Tensor, token_mask: Tensor | None, scale: float) -> None:
    """Offers "weights" and "blocks", the connected keys."""
    batch, heads, tokens, _ = q.shape
    with torch.no_grad():
        mask = predictor(q, k, token_mask=token_mask).mask

    def weights(rows: Tensor, picked: Tensor) -> Tensor:
        scores = q[:, picked][:, :, rows].float() @ k[:, picked].float().transpose(2, 3) * scale
        return scores.masked_fill(~mask[:, picked][:, :, rows], -torch.inf).softmax(-1).nan_to_num(0)

    shape = (batch, heads, tokens, tokens)
    record("weights", weights, shape=shape, device=q.device)
    record("blocks", lambda rows, picked: mask[:, picked][:, :, rows], shape=shape, device=q.device)


class SparseCore(nn.Module):
    """`sparse_attention` between the projections of a vision transformer's layer; see `MaskPredictor` for the options."""

    @placed
    def __init__(
        self, dim: int, *, path: Path = "auto", device: Device = None, dtype: torch.dtype | None = None, **predictor
    ):
        super().__init__()
        self.mask_predictor = MaskPredictor(dim, **predictor)
        self.path: Path = path

    def forward(
        self, q: Float[Tensor, "batch heads tokens dim"], k: Tensor, v: Tensor, *, scale: float
    ) -> Float[Tensor, "batch heads tokens dim"]:
        """Attention of the shape of `q`."""
        return sparse_attention(q, k, v, self.mask_predictor, scale=scale, path=self.path)


def for_layer(layer: Layer, *, num_tokens: int | None = None, **options) -> SparseCore:
    """For `core_attention.pretrained.convert`: one class token in front; options are those of `MaskPredictor`, and `path`.

    Raises:
        ValueError: the number of tokens is unknown, or grouped keys.
    """
    if layer.num_heads != layer.num_kv_heads:
        raise ValueError(
            f"{layer.name} groups its queries ({layer.num_heads} heads, {layer.num_kv_heads} of keys): no vision transformer"
        )
    tokens = layer.tokens() if num_tokens is None else num_tokens
    if tokens is None:
        raise ValueError(
            f"the predictor has a row for each token and {type(layer.model).__name__} does not say how many: give num_tokens="
        )
    return SparseCore(layer.num_heads * layer.head_dim, num_heads=layer.num_heads, num_tokens=tokens, **options)


def example(tokens: int) -> Example:
    """A layer of Sparsifiner-S, for `core_attention.registry.catalogue`; its reference computes and masks all pairs."""
    tokens = max(2, tokens)
    layer = SparsifinerAttention(384, num_heads=6, num_tokens=tokens, rank=max(1, tokens // 6), qkv_bias=True)

    def masked(x: Tensor) -> Tensor:
        q, k, v = layer.qkv(x).unflatten(-1, (3, 6, -1)).permute(2, 0, 3, 1, 4)
        out = sparse_attention(q, k, v, layer.mask_predictor, path="mask")
        return layer.proj(out.transpose(1, 2).flatten(2))

    return Example(layer, (torch.randn(1, tokens, 384),), tokens, reference=masked, softmax=(384, 6))
