"""Which backend computes an attention: one rule, and its reasons in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from core_attention.backends import flex, reference, sdpa, triton, xformers
from core_attention.backends.problem import Problem
from core_attention.masks import Size

BACKENDS = {module.NAME: module for module in (reference, sdpa, triton, flex, xformers)}
KINDS = {
    "causal": "Causal",
    "window": "Window",
    "lengths": "KeyLengths",
    "segments": "Segments",
    "blocks": "Blocks",
    "dense": "Dense",
    "additive": "Additive",
    "factorised": "Factorised",
    "alibi": "Alibi",
    "relative": "RelativePosition",
}


@dataclass(frozen=True)
class Explanation:
    """What computes an attention.

    Args:
        backend: the one taken.
        reason: why it is.
        others: every other backend → why it is not.
        problem: what was asked for.
    """

    backend: str
    reason: str
    others: Mapping[str, str]
    problem: Problem

    def __str__(self) -> str:
        size = self.problem.size
        masks = " & ".join(self.problem.masks) or "no mask"
        description = (
            f"{size.batch} × {size.heads} heads ({self.problem.kv_heads} of keys) × {size.queries} queries × {size.keys} keys, "
            f"width {self.problem.width}/{self.problem.value_width}, {str(self.problem.dtype).removeprefix('torch.')} "
            f"on {self.problem.device}, {masks}"
        )
        lines = [description, f"  {self.backend}: taken, {self.reason}"]
        for name, why in self.others.items():
            lines.append(f"  {name}: not taken, {why}")
        return "\n".join(lines)


def auto_order(problem: Problem) -> tuple[tuple[str, str], ...]:
    """The one rule of ``backend="auto"``: backends with their reasons, of which the first that can compute `problem` is taken.

    1. Nothing to compute: `reference`, which needs no kernel.
    2. Not on CUDA, or with dropout, which no other kernel has: `sdpa`.
    3. On CUDA without a mask or with the plain causal one, and no log-sum-exp: `sdpa`, whose flash kernel takes these.
    4. On CUDA with blocks or a factorised bias: `flex`, which skips hidden blocks; else as 5.
    5. On CUDA otherwise: `triton`, which needs no written-out mask; where it does not know a mask, `sdpa`.
    """
    if any(length == 0 for length in problem.size):
        return (("reference", "there is nothing to compute"),)
    if problem.masks:
        rest = ("sdpa", "torch's kernels, with the mask cut into pieces")
    else:
        rest = ("sdpa", "torch's kernels take it as it is")
    plain = not problem.masks or (problem.masks == ("Causal",) and problem.aligned)
    if problem.device != "cuda" or problem.dropout or (plain and not problem.return_lse):
        return (rest,)
    by_position = ("triton", "masks by position inside the kernel, nothing written out")
    if "Blocks" in problem.masks or "Factorised" in problem.masks:
        return (("flex", "skips hidden blocks, adds the bias inside the kernel"), by_position, rest)
    return (by_position, rest)


def choose(problem: Problem, backend: str = "auto") -> tuple[str, str]:
    """The backend for `problem` and why.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: the backend asked for cannot compute `problem`; says why.
    """
    if backend == "auto":
        order = auto_order(problem)
        for name, reason in order:
            if name == order[-1][0] or BACKENDS[name].why_not(problem) is None:
                return name, reason
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: one of auto, {', '.join(BACKENDS)}")
    why = BACKENDS[backend].why_not(problem)
    if why is not None:
        raise RuntimeError(f"backend {backend!r} cannot compute this attention: {why}")
    return backend, "it was asked for"


def explained(problem: Problem, backend: str = "auto") -> Explanation:
    """`choose`, and why each other backend is not taken; raises as it does."""
    taken, reason = choose(problem, backend)
    order = [name for name, _ in auto_order(problem)]
    others = {}
    for name, module in BACKENDS.items():
        if name == taken:
            continue
        why = module.why_not(problem)
        if why is None and name == "reference":
            size = problem.size
            itemsize = 8 if problem.dtype == torch.float64 else 4
            scores = size.batch * size.heads * size.queries * size.keys * itemsize
            why = f"the definition, for checking: it writes out all scores ({scores / 2**20:.1f} MiB)"
        elif why is None and backend != "auto":
            why = f"it could; {taken} was asked for"
        elif why is None:
            why = f"it could; `auto` prefers {taken} here"
            if name not in order:
                why += f", and takes {name} only when asked by name"
        others[name] = why
    return Explanation(taken, reason, others, problem)


def explain_shapes(
    q: Sequence[int],
    k: Sequence[int] | None = None,
    v: Sequence[int] | None = None,
    *,
    mask: str = "none",
    dtype: str = "float32",
    device: str = "cpu",
    backend: str = "auto",
    needs_grad: bool = False,
    return_lse: bool = False,
    dropout: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> Explanation:
    """`explain` from shapes alone; nothing is allocated and no device is touched.

    Args:
        q: (batch, heads, queries, width).
        k: (batch, key heads, keys, width); None: as `q`.
        v: (batch, key heads, keys, value width); None: as `k`.
        mask: names joined by ``&``: none, causal, window, lengths, segments, blocks, dense, additive, factorised, alibi, relative.
        dtype: a torch dtype's name.
        device: a device type.
        dropout: the share of weights that are dropped.
        grid: rows and columns of the keys of a factorised bias; None: about square.

    Raises:
        ValueError: a shape that does not fit, an unknown mask, dtype or backend.
        RuntimeError: the backend asked for cannot compute this.
    """
    k = q if k is None else k
    v = k if v is None else v
    if (
        not (len(q) == len(k) == len(v) == 4)
        or q[0] != k[0]
        or tuple(k[:3]) != tuple(v[:3])
        or q[3] != k[3]
        or not k[1]
        or q[1] % k[1]
    ):
        raise ValueError(
            f"shapes are (batch, heads, length, width), key heads dividing query heads: got q {q}, k {k}, v {v}"
        )
    mask_names = [name.strip() for name in mask.split("&")]
    mask_names = [name for name in mask_names if name not in ("", "none")]
    unknown = [name for name in mask_names if name not in KINDS]
    if unknown:
        raise ValueError(f"unknown mask {', '.join(unknown)}: one of none, {', '.join(KINDS)}")
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"unknown float dtype {dtype!r}")
    factors = 0
    if "factorised" in mask_names:
        side = round(k[2] ** 0.5)
        factors = sum(grid or (side, -(-k[2] // max(side, 1))))
    problem = Problem(
        size=Size(q[0], q[1], q[2], k[2]),
        kv_heads=k[1],
        width=q[3],
        value_width=v[3],
        dtype=kind,
        device=device,
        masks=tuple(KINDS[name] for name in mask_names),
        factors=factors,
        needs_grad=needs_grad,
        return_lse=return_lse,
        dropout=dropout > 0,
    )
    return explained(problem, backend)
