"""Which key blocks a query attends to, by the gate ``g = b_c · q`` on block means: threshold and top-k over four kinds of groups.

Sources: Wu et al., "VMoBA: Mixture-of-Block Attention for Video Diffusion Models", 2025 (threshold, groups); Lu et al., "MoBA:
Mixture of Block Attention for Long-Context LLMs", 2025 (gate, top-k).

A threshold over a whole head (hundreds of thousands of entries) needs no sort of all of them: a sample brackets the cut, one pass
sums what lies above the bracket, and only the few entries inside it are sorted.
"""

import math
from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Group = Literal["query_head", "head_global", "block", "overall"]
Pool = Literal["sample", "packed"]

SAMPLE = 1 << 14  # entries that bracket a cut; fewer entries than four times this are sorted
EPS = 1e-6


def block_means(
    k: Float[Tensor, "batch heads tokens dim"], block: int, real: Bool[Tensor, " tokens"] | None = None
) -> Float[Tensor, "batch heads blocks dim"]:
    """The mean key of each block of `block` tokens in float32 (float64 for float64), over its `real` tokens; the last may be short."""
    wide = torch.promote_types(k.dtype, torch.float32)
    tokens = k.shape[2]
    owner = torch.arange(tokens, device=k.device) // block
    if real is not None:
        k = k * real[:, None].to(k.dtype)
    sums = k.new_zeros(*k.shape[:2], -(-tokens // block), k.shape[3], dtype=wide)
    full_blocks = tokens // block
    covered = full_blocks * block
    sums[:, :, :full_blocks] = k[:, :, :covered].unflatten(2, (-1, block)).sum(3, dtype=wide)
    if covered < tokens:
        sums[:, :, -1] = k[:, :, covered:].sum(2, dtype=wide)
    ones = torch.ones(tokens, device=k.device, dtype=wide) if real is None else real.to(wide)
    count = torch.zeros(sums.shape[2], device=k.device, dtype=wide).index_add_(0, owner, ones)
    return sums / count.clamp(min=1)[:, None]  # a block of padding alone has the mean 0


def gate(
    q: Float[Tensor, "batch heads queries dim"], means: Float[Tensor, "batch kv_heads blocks dim"]
) -> Float[Tensor, "batch heads queries blocks"]:
    """``g = q · b_c``, unscaled, in the precision of the means; each group of query heads with its key head."""
    kv_heads = means.shape[1]
    grouped = q.to(means.dtype).unflatten(1, (kv_heads, q.shape[1] // kv_heads))
    return (grouped @ means.transpose(2, 3)[:, :, None]).flatten(1, 2)


def select_blocks(
    gates: Float[Tensor, "batch heads queries blocks"],
    own: Int[Tensor, " queries"],
    *,
    group: Group = "head_global",
    tau: float | None = 0.25,
    topk: int | None = None,
    include_self: bool = True,
    pool: Pool = "sample",
    exact_sort: bool = False,
) -> Bool[Tensor, "batch heads queries blocks"]:
    """The blocks that each query attends to.

    Threshold (`tau`): gates are brought to 0…1 over their group; the largest are kept until they and the own blocks hold `tau`
    of the group's sum, at least one beside the own. Top-k (`topk`): own blocks first, then the best, `topk` a query on average
    over the group. A gate that is not finite is never chosen and does not count. Of equal gates the first in
    (head, query, block) order wins.

    Args:
        gates: see `gate`.
        own: the block that each query lies in.
        group: over what gates compete: all blocks of a "query_head", all (query, block) of a head ("head_global"), all
            (head, query) of a "block" (threshold only), or "overall".
        tau: share of the sum to keep; 1 or more keeps all. Ignored with `topk`.
        topk: blocks per query, the own one included.
        include_self: always attend to the own block.
        pool: each sample for itself, or (as published) groups and budgets over the whole batch.
        exact_sort: sort every group (the definition) instead of bracketing the cut.

    Returns:
        True where a query attends to the block.

    Raises:
        ValueError: neither tau nor topk, values of them that are out of range, an unknown group or pool, or "block" with topk.
    """
    _check(group, tau, topk, pool)
    queries, blocks = gates.shape[2:]
    own_block = torch.zeros(queries, blocks, dtype=torch.bool, device=gates.device)
    if include_self and blocks:
        own_block.scatter_(1, own[:, None], True)
    if not gates.numel():
        return own_block.expand(gates.shape).clone()
    if topk is not None:
        keeps_all = topk >= blocks
    else:
        keeps_all = tau is not None and tau >= 1
    if keeps_all:
        return gates.isfinite() | own_block
    if group == "query_head":
        return _select_per_query(gates, own_block, tau, topk)
    # the axes (batch, head, query, block) in an order that puts those which tell groups apart first, and how many they are
    order, leading = {
        ("head_global", "sample"): ((0, 1, 2, 3), 2),
        ("head_global", "packed"): ((1, 0, 2, 3), 1),
        ("block", "sample"): ((0, 3, 1, 2), 2),
        ("block", "packed"): ((0, 3, 1, 2), 2),  # other samples' blocks are never valid
        ("overall", "sample"): ((0, 1, 2, 3), 1),
        ("overall", "packed"): ((0, 1, 2, 3), 0),
    }[group, pool]
    selected = torch.empty(gates.shape, dtype=torch.bool, device=gates.device)
    # views: writing into `by_group` fills `selected`
    grouped_gates, by_group = gates.permute(order), selected.permute(order)
    grouped_own = own_block.expand(gates.shape).permute(order)
    for place in product(*map(range, grouped_gates.shape[:leading])):
        entries = grouped_gates[place].flatten()
        owned = grouped_own[place].reshape(-1) if include_self else None
        rows = entries.numel() // blocks  # queries of the group, of all its heads
        members = _select_in_group(entries, owned, tau, topk, rows, exact_sort)
        by_group[place] = members.view(grouped_gates.shape[leading:])
    return selected


def _check(group: str, tau: float | None, topk: int | None, pool: str) -> None:
    if group not in ("query_head", "head_global", "block", "overall"):
        raise ValueError(f"unknown group {group!r}: one of query_head, head_global, block, overall")
    if pool not in ("sample", "packed"):
        raise ValueError(f"pool is 'sample' or 'packed', got {pool!r}")
    if topk is None and (tau is None or not tau >= 0):
        raise ValueError(f"either topk, or a share tau of at least 0, is needed; got tau={tau}")
    if topk is not None and topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")
    if topk is not None and group == "block":
        raise ValueError(
            "the group 'block' exists with a threshold only: top-k over a block would leave queries without blocks"
        )


def _select_per_query(
    gates: Tensor, own_block: Bool[Tensor, "queries blocks"], tau: float | None, topk: int | None
) -> Bool[Tensor, "batch heads queries blocks"]:
    """The group "query_head": every query sorts its own few gates."""
    valid = gates.isfinite()
    others = gates.masked_fill(~valid | own_block, -torch.inf)
    best, order = others.sort(dim=-1, descending=True, stable=True)
    # `keep` says of the sorted gates which are selected
    if topk is not None:
        remaining = topk - own_block.any(-1, keepdim=True).long()  # the own block counts
        keep = torch.arange(gates.shape[3], device=gates.device) < remaining
    else:
        assert tau is not None
        # gates brought to 0…1 over the query's blocks; EPS as published
        low = gates.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
        span = gates.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True) - low
        span = torch.where(span > EPS, span, 1)
        shares = ((gates - low) / span).masked_fill(~valid, 0)
        total = shares.sum(-1, keepdim=True) + EPS
        needed = (tau - (shares * own_block).sum(-1, keepdim=True) / total).clamp(min=0)
        running = ((best - low) / span).masked_fill(best == -torch.inf, 0).cumsum(-1) / total
        # a gate is kept while those before it do not hold the share
        before = torch.cat([torch.zeros_like(running[..., :1]), running[..., :-1]], -1)
        keep = before < needed
        keep[..., 0] = True  # at least one beside the own
    keep = keep.expand(order.shape) & (best > -torch.inf)
    return torch.zeros_like(valid).scatter(-1, order, keep) | own_block


def _select_in_group(
    gates: Float[Tensor, " entries"],
    owned: Bool[Tensor, " entries"] | None,
    tau: float | None,
    topk: int | None,
    rows: int,
    exact_sort: bool,
) -> Bool[Tensor, " entries"]:
    """The selected entries of one group: `topk` per row, or the share `tau` of the sum; `owned` ones always."""
    low, high = map(float, gates.aminmax())
    valid = None  # all of them, which spares a pass
    if not (math.isfinite(low) and math.isfinite(high)):
        valid = gates.isfinite()
        if not valid.any():
            return _owned_alone(gates, owned)
        low, high = map(float, gates[valid].aminmax())
    others = gates
    if owned is not None:
        others = others.masked_fill(owned, -torch.inf)
    if valid is not None:
        others = others.masked_fill(~valid, -torch.inf)
    if topk is not None:
        taken = 0 if owned is None else int(owned.sum())
        needed = float(topk * rows - taken)
        if needed < 1:
            return _owned_alone(gates, owned)
        selected = _select_largest(others, needed, None, exact_sort)
    else:
        # sums of (gate − low) / span, gates brought to 0…1, without making that array
        span = high - low if high - low > EPS else 1.0
        counted = gates if valid is None else gates[valid]
        total = (_sum(counted) - counted.numel() * low) / span
        own_sum = 0.0
        if owned is not None:
            own_gates = gates[owned] if valid is None else gates[owned & valid]
            own_sum = (_sum(own_gates) - own_gates.numel() * low) / span
        share = max(0.0, tau - own_sum / (total + EPS))  # type: ignore[operator]
        selected = _select_largest(others, share * (total + EPS) * span, low, exact_sort)
    return selected if owned is None else selected | owned


def _owned_alone(gates: Tensor, owned: Tensor | None) -> Tensor:
    if owned is None:
        return torch.zeros_like(gates, dtype=torch.bool)
    return owned.clone()


def _sum(values: Tensor) -> float:
    """The sum, exact to a few parts in 10⁸ without a copy in double precision: pieces in their own, their sums in double."""
    whole = values.numel() // 4096 * 4096
    pieces = values[:whole].view(-1, 4096).sum(1)
    return float(pieces.double().sum()) + float(values[whole:].double().sum())


def _select_largest(values: Tensor, needed: float, low: float | None, exact_sort: bool) -> Bool[Tensor, " entries"]:
    """The largest finite entries, in descending order until their weights reach `needed`, at least one; all if they never do.

    An entry weighs ``value − low``, or 1 if `low` is None.
    """
    if exact_sort or values.numel() < 4 * SAMPLE:
        return _largest_sorted(values, needed, low)
    # a low-discrepancy sample (steps of the golden ratio), so that it falls in with no period of the layout
    step = torch.arange(SAMPLE, device=values.device, dtype=torch.float64) * 0.6180339887498949
    sample = values[(step.frac() * values.numel()).long()].sort(descending=True).values
    entries_per_sample = values.numel() / SAMPLE
    weights = torch.ones_like(sample) if low is None else (sample - low)
    reached = weights.masked_fill(sample == -torch.inf, 0).cumsum(0) * entries_per_sample
    # the cut lies about here; the bracket around it is `margin` samples wide on either side
    middle = int(torch.searchsorted(reached, needed))
    margin = 2 * math.isqrt(SAMPLE)  # four standard deviations of a random sample's median
    upper = sample[middle - margin] if middle >= margin else values.new_tensor(torch.inf)
    lower = sample[middle + margin] if middle + margin < SAMPLE else values.new_tensor(-torch.inf)
    # all above the bracket are selected as they are; only what is inside needs sorting
    above = values > upper
    count = int(above.sum())
    weight_above = count if low is None else _sum(torch.where(above, values, 0)) - count * low
    if weight_above >= needed and count:  # the sample misled: the cut lies above the bracket
        return _largest_sorted(values, needed, low)
    inside = ((values >= lower) & ~above).nonzero()[:, 0]
    selected, complete = _select_until(values[inside], needed - weight_above, low, at_least_one=count == 0)
    if not complete and math.isfinite(lower):  # or below it
        return _largest_sorted(values, needed, low)
    above[inside] = selected
    return above


def _largest_sorted(values: Tensor, needed: float, low: float | None) -> Bool[Tensor, " entries"]:
    return _select_until(values, needed, low, at_least_one=True)[0]


def _select_until(
    values: Tensor, needed: float, low: float | None, *, at_least_one: bool
) -> tuple[Bool[Tensor, " entries"], bool]:
    """See `_select_largest`, by sorting; and whether `needed` was reached."""
    best, order = values.sort(descending=True, stable=True)
    finite = best > -torch.inf
    weights = torch.ones_like(best, dtype=torch.float64) if low is None else best.double() - low
    running = weights.masked_fill(~finite, 0).cumsum(0)
    # an entry is selected while those before it have not reached what is needed
    count = int((running < needed).sum())
    if needed > 0:
        count += 1
    count = max(count, int(at_least_one))
    selected = torch.zeros_like(values, dtype=torch.bool)
    selected[order[:count]] = True
    complete = bool(running.numel()) and float(running[-1]) >= needed
    return selected & (values > -torch.inf), complete
