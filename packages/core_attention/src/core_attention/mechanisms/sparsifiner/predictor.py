"""Sparse attention of vision transformers whose pairs a cheap low-rank predictor chooses for each image (Sparsifiner).

Source: Wei, Duke, Jiang, Aarabi, Taylor, Shkurti, "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient
Vision Transformers", CVPR 2023.

Token 0 is the class token: it attends to everything, and only the other rows are predicted. Per head, with q', k' narrowed
to c channels::

    C = softmax_r(s · q' (k'ᵀ P))          coefficients of each token over r basis vectors
    Ã = top_m(C) · ⌊|Wᵀ|⌋_τ                connectivity scores, (N − 1, N)
    mask = the ⌈ρN⌉ largest of each row    no gradient

While the predictor warms up, C and Wᵀ are used as they are and the attention stays dense.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.parts.placing import Device, placed
from core_attention.parts.transforms import readable

ROWS = 1 << 22  # connectivity scores that exist at once where the mask itself is not wanted


@dataclass(frozen=True)
class Connectivity:
    """What the predictor found, kept only where it is asked for.

    Attributes:
        coefficients: (batch, heads, tokens − 1, rank), after sparsification.
        basis: (rank, tokens), after thresholding.
        scores: (batch, heads, tokens − 1, tokens); differentiable.
        mask: (batch, heads, tokens, tokens), True where connected; the class token's row is all True.
    """

    coefficients: Tensor
    basis: Tensor
    scores: Tensor
    mask: Tensor

    def sparsity(self) -> dict[str, Tensor]:
        """Shares of zeros in "mask" (class row included), "basis" and "coefficients"."""
        parts = {"mask": self.mask, "basis": self.basis, "coefficients": self.coefficients}
        return {name: 1 - part.count_nonzero() / part.numel() for name, part in parts.items()}


class MaskPredictor(nn.Module):
    """Predicts which keys each query of a vision transformer needs; heads share its weights.

    Args:
        dim: width of the transformer.
        num_heads: heads; divides `dim`.
        num_tokens: tokens with the class token, which fixes the input size (see `resample_predictor`).
        attn_keep_rate: ρ; each row keeps ``ceil(ρ · num_tokens)`` keys.
        reduce_n_factor: the basis has ``num_tokens // reduce_n_factor`` vectors.
        reduce_c_factor: q' and k' have ``dim / num_heads // reduce_c_factor`` channels.
        share_inout_proj: P and W are one parameter.
        scale: s; default ``num_heads ** -0.5``, as published; ``(dim / num_heads) ** -0.5`` is the usual one.
        basis_threshold: entries of |W| up to this count as 0.
        coef_topk: coefficients that a row keeps, not renormalised; None keeps those above `coef_threshold`.
        coef_threshold: see there; 0 keeps all.
        score_threshold: connect what scores above this, instead of a number of keys a row.
        prune_rows: rows of dead tokens are connected to nothing.
        strict: a key that scores 0 is never connected, so rows may keep fewer.
        budget_of: with a token mask a row keeps no more keys than tokens are alive: in its own "sample", or (as published) in
            the "first" of the batch.
        rank: number of basis vectors, instead of `reduce_n_factor`.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: options that leave nothing.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        num_tokens: int = 197,
        attn_keep_rate: float = 0.25,
        reduce_n_factor: int = 8,
        reduce_c_factor: int = 2,
        share_inout_proj: bool = False,
        scale: float | None = None,
        basis_threshold: float = 0.02,
        coef_topk: int | None = 8,
        coef_threshold: float = 0.0,
        score_threshold: float | None = None,
        prune_rows: bool = False,
        strict: bool = False,
        budget_of: Literal["sample", "first"] = "sample",
        rank: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim}")
        head_dim, rank = dim // num_heads, num_tokens // reduce_n_factor if rank is None else rank
        narrow = head_dim // reduce_c_factor
        if num_tokens < 2 or min(rank, narrow) < 1:
            raise ValueError(
                f"{num_tokens} tokens by {reduce_n_factor} and {head_dim} channels by {reduce_c_factor} leave no basis"
            )
        if not 0 < attn_keep_rate <= 1:
            raise ValueError(f"attn_keep_rate is above 0 and at most 1, got {attn_keep_rate}")
        if coef_topk is not None and coef_topk < 1:
            raise ValueError(f"coef_topk must be at least 1, got {coef_topk}")
        if budget_of not in ("sample", "first"):
            raise ValueError(f"budget_of is 'sample' or 'first', got {budget_of!r}")
        self.num_heads, self.num_tokens, self.head_dim = num_heads, num_tokens, head_dim
        self.attn_keep_rate, self.budget = attn_keep_rate, math.ceil(attn_keep_rate * num_tokens)
        self.scale = num_heads**-0.5 if scale is None else scale
        self.basis_threshold, self.coef_topk, self.coef_threshold = basis_threshold, coef_topk, coef_threshold
        self.score_threshold, self.prune_rows, self.strict = score_threshold, prune_rows, strict
        self.budget_of = budget_of
        self.proj_c_q, self.proj_c_k = nn.Linear(head_dim, narrow), nn.Linear(head_dim, narrow)
        self.proj_n = nn.Parameter(torch.empty(num_tokens, rank))
        self.proj_back_n = self.proj_n if share_inout_proj else nn.Parameter(torch.empty(num_tokens, rank))
        for parameter in {self.proj_n, self.proj_back_n, self.proj_c_q.weight, self.proj_c_k.weight}:
            nn.init.trunc_normal_(parameter, std=0.02)
        for linear in (self.proj_c_q, self.proj_c_k):
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        q: Float[Tensor, "batch heads tokens dim"],
        k: Float[Tensor, "batch heads tokens dim"],
        *,
        token_mask: Bool[Tensor, "batch patches"] | None = None,
        warm_up: bool = False,
    ) -> Connectivity:
        """All maps, (tokens × tokens) ones included.

        Args:
            q: queries of the attention that is made sparse.
            k: its keys.
            token_mask: True for tokens that are alive, class token excluded.
            warm_up: raw coefficients and basis.

        Raises:
            ValueError: another number of tokens, or width of a head, than the predictor was made for.
        """
        coefficients, basis = self.factors(q, k, token_mask=token_mask, warm_up=warm_up)
        scores = coefficients @ basis
        rows = self._rows(scores.detach(), token_mask)
        top = rows.new_ones(*rows.shape[:2], 1, rows.shape[3])
        return Connectivity(coefficients, basis, scores, torch.cat([top, rows], 2))

    def factors(
        self, q: Tensor, k: Tensor, *, token_mask: Tensor | None = None, warm_up: bool = False
    ) -> tuple[Float[Tensor, "batch heads patches rank"], Float[Tensor, "rank tokens"]]:
        """Coefficients and basis, whose product are the scores."""
        if q.shape != k.shape or q.shape[2] != self.num_tokens or q.shape[3] != self.head_dim:
            raise ValueError(
                f"a predictor of {self.num_tokens} tokens and {self.head_dim} channels a head got queries "
                f"{tuple(q.shape)} and keys {tuple(k.shape)}; for another image size see resample_predictor"
            )
        query, key = self.proj_c_q(q[:, :, 1:]), self.proj_c_k(k)
        if token_mask is not None:
            alive = token_mask[:, None, :, None].to(query.dtype)
            query, key = query * alive, key * F.pad(alive, (0, 0, 1, 0), value=1.0)
        coefficients = (query @ (key.transpose(2, 3) @ self.proj_n) * self.scale).softmax(-1)
        basis = self.proj_back_n.T
        if warm_up:
            return coefficients, basis
        size = basis.abs()
        basis = size * (size > self.basis_threshold)
        if self.coef_topk is not None:
            best, place = coefficients.topk(min(self.coef_topk, coefficients.shape[3]), sorted=False)
            coefficients = torch.zeros_like(coefficients).scatter(-1, place, best)
        elif self.coef_threshold > 0:
            coefficients = coefficients * (coefficients > self.coef_threshold)
        return coefficients, basis

    def index(
        self, q: Tensor, k: Tensor, *, token_mask: Tensor | None = None
    ) -> Int[Tensor, "batch heads patches budget"]:
        """The keys of each row (class row excluded) as a list, −1 where there are fewer; without a gradient, and a few rows at
        a time, so that no tokens × tokens array exists.

        Raises:
            ValueError: the predictor connects by `score_threshold`, so that rows have no common length.
        """
        if self.score_threshold is not None:
            raise ValueError("keys above a score threshold are not a list of a fixed length: use the mask")
        with torch.no_grad():
            coefficients, basis = self.factors(q, k, token_mask=token_mask)
            batch, heads, rows, _ = coefficients.shape
            lists = coefficients.new_full((batch, heads, rows, self.budget), -1, dtype=torch.long)
            for start, stop in _stretches(rows, batch * heads * self.num_tokens):
                mask = self._rows(coefficients[:, :, start:stop] @ basis, token_mask, start)
                # connected keys first, in order
                order = mask.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., : self.budget]
                lists[:, :, start:stop] = order.masked_fill(~mask.gather(-1, order), -1)
        return lists

    def _rows(
        self, scores: Tensor, token_mask: Tensor | None, start: int = 0
    ) -> Bool[Tensor, "batch heads rows tokens"]:
        """Which keys the rows from patch `start` on are connected to."""
        if token_mask is not None:
            dead = F.pad(~token_mask, (1, 0))[:, None, None, :]
            scores = scores.masked_fill(dead, -torch.inf)
        limit = self.score_threshold
        mask = self._largest(scores, token_mask) if limit is None else ~(scores <= limit)
        if self.strict:
            mask &= scores != 0
        if token_mask is not None and self.prune_rows:
            mask &= token_mask[:, None, start : start + scores.shape[2], None]
        return mask

    def _largest(self, scores: Tensor, token_mask: Tensor | None) -> Tensor:
        """The `budget` largest of each row; of equal ones the first. A row that is not a number is connected to all."""
        budget = torch.tensor(self.budget, device=scores.device).view(1, 1, 1, 1)
        if token_mask is not None:
            alive = token_mask.sum(-1) if self.budget_of == "sample" else token_mask[:1].sum(-1)
            budget = alive.clamp(max=self.budget).view(-1, 1, 1, 1)
        best = scores.topk(self.budget, dim=-1).values
        last = best.gather(-1, (budget - 1).clamp(min=0).expand(*scores.shape[:3], 1))
        mask, equal = scores > last, scores == last
        left = budget - mask.sum(-1, keepdim=True)
        # ties at the limit are rare, and counting them out takes as long as the rest: looked for first where that is possible
        if scores.is_cuda or not readable(scores) or bool((equal.sum(-1, keepdim=True) != left).any()):
            equal = equal & (equal.cumsum(-1) <= left)
        return mask | equal | last.isnan()


def _stretches(rows: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, ROWS // max(1, width))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def resample_predictor(predictor: MaskPredictor, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Fits a predictor, in place, to another grid of patches (height, width): P and W are resampled bicubically, the class token's
    row stays, and P, which sums over tokens, is divided by how much their number grew. The rank stays; the budget keeps its rate.

    Raises:
        ValueError: the old grid does not hold the predictor's patches.
    """
    shared = predictor.proj_back_n is predictor.proj_n
    with torch.no_grad():
        down, back = _resampled(predictor, old, new)
    predictor.proj_n = nn.Parameter(down)
    predictor.proj_back_n = predictor.proj_n if shared else nn.Parameter(back)
    _count_tokens(predictor, new)


def predictor_at(predictor: MaskPredictor, old: tuple[int, int], new: tuple[int, int]) -> MaskPredictor:
    """The same predictor for another grid of patches, as `resample_predictor` makes it, for one call: its tables are resampled anew from the
    parameters, which get the gradient.

    Raises:
        ValueError: the old grid does not hold the predictor's patches.
    """
    if old == new:
        return predictor
    view = copy.copy(predictor)
    view._parameters = {}
    # plain attributes: they are not parameters of the view, but computed from those of the predictor
    tables = zip(("proj_n", "proj_back_n"), _resampled(predictor, old, new), strict=True)
    view.__dict__.update(tables)
    _count_tokens(view, new)
    return view


def _count_tokens(predictor: MaskPredictor, grid: tuple[int, int]) -> None:
    tokens = grid[0] * grid[1] + 1
    predictor.budget = math.ceil(predictor.attn_keep_rate * tokens)
    predictor.num_tokens = tokens


def _resampled(predictor: MaskPredictor, old: tuple[int, int], new: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """P and W for another grid."""
    if old[0] * old[1] + 1 != predictor.num_tokens:
        raise ValueError(f"a grid of {old} has {old[0] * old[1]} patches, the predictor {predictor.num_tokens - 1}")

    def resampled(rows: Tensor) -> Tensor:
        image = rows[1:].T.reshape(1, -1, *old)
        patches = F.interpolate(image, new, mode="bicubic", align_corners=False)[0].flatten(1).T
        return torch.cat([rows[:1], patches])

    growth = new[0] * new[1] / (old[0] * old[1])
    back = resampled(predictor.proj_back_n)
    shared = predictor.proj_back_n is predictor.proj_n
    return back if shared else resampled(predictor.proj_n) / growth, back
