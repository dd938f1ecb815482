"""Block selection: the bracketed cut equals the sort, groups do what they are called, and non-finite gates stay out."""

import pytest
import torch

from core_attention.mechanisms.vmoba import block_selection
from core_attention.mechanisms.vmoba.block_selection import block_means, gate, select_blocks

GROUPS = ["query_head", "head_global", "block", "overall"]


def gates(batch=2, heads=3, queries=24, blocks=6, seed=0):
    return torch.randn(batch, heads, queries, blocks, generator=torch.Generator().manual_seed(seed))


OWN = torch.arange(24) // 4


def written_out(g, own, *, group, tau, include_self=True, pool="sample"):
    """The threshold rule once more, entry by entry."""
    chosen = torch.zeros_like(g, dtype=torch.bool)
    members = {}
    for place in torch.cartesian_prod(*(torch.arange(n) for n in g.shape)).tolist():
        b, h, s, c = place
        key = {"query_head": (b, h, s), "head_global": (b, h), "block": (b, c), "overall": (b,)}[group]
        key = key[1:] if pool == "packed" and group in ("head_global", "overall") else key
        members.setdefault(key, []).append(tuple(place))
    for places in members.values():
        values = {p: float(g[p]) for p in places}
        low, high = min(values.values()), max(values.values())
        span = high - low if high - low > 1e-6 else 1
        parts = {p: (value - low) / span for p, value in values.items()}
        mine = [p for p in places if include_self and own[p[2]] == p[3]]
        total = sum(parts.values())
        need = max(0, tau - sum(parts[p] for p in mine) / (total + 1e-6))
        running = 0
        for p in sorted((p for p in places if p not in mine), key=lambda p: -parts[p]):
            chosen[p] = True
            running += parts[p]
            if running / (total + 1e-6) >= need:
                break
        for p in mine:
            chosen[p] = True
    return chosen


@pytest.mark.parametrize("pool", ["sample", "packed"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("group", GROUPS)
def test_threshold_is_the_rule(group, include_self, pool):
    for tau in (0.0, 0.2, 0.6):
        options = {"group": group, "tau": tau, "include_self": include_self, "pool": pool}
        assert torch.equal(select_blocks(gates(), OWN, **options), written_out(gates(), OWN, **options))


@pytest.mark.parametrize("group", ["query_head", "head_global", "overall"])
def test_topk_counts_the_own_block(group):
    g = gates()
    for topk in (1, 2, 4, 6, 9):
        chosen = select_blocks(g, OWN, group=group, topk=topk)
        own = OWN[:, None] == torch.arange(6)
        assert chosen[:, :, own].all()
        wanted = {"query_head": chosen.sum(3), "head_global": chosen.sum((2, 3)), "overall": chosen.sum((1, 2, 3))}
        queries = {"query_head": 1, "head_global": 24, "overall": 72}[group]
        assert (wanted[group] == min(topk, 6) * queries).all()
        rest, left = g[chosen & ~own], g[~chosen]
        if group == "overall" and 1 < topk < 6:
            for b in range(2):
                assert g[b][chosen[b] & ~own].min() > g[b][~chosen[b]].max()
        assert len(rest) + len(left) == g.numel() - 2 * 3 * 24
    without = select_blocks(g, OWN, group=group, topk=2, include_self=False)
    assert without.sum() == 2 * 2 * 3 * 24


@pytest.mark.parametrize(
    "options", [{"tau": 0.25}, {"tau": 0.02}, {"tau": 0.93}, {"topk": 4}, {"topk": 2, "include_self": False}], ids=str
)
@pytest.mark.parametrize("shape", ["normal", "skewed", "tied"])
def test_bracketed_cut_equals_the_sort(options, shape, monkeypatch):
    monkeypatch.setattr(block_selection, "SAMPLE", 256)
    sorted_calls = []
    original = block_selection._largest_sorted
    monkeypatch.setattr(block_selection, "_largest_sorted", lambda *a: sorted_calls.append(1) or original(*a))
    g = gates(1, 2, 1200, 12)
    g = {"normal": g, "skewed": g.mul(3).exp(), "tied": g.mul(2).round()}[shape]
    own = torch.arange(1200) // 100
    fast = select_blocks(g, own, **options)
    assert shape != "normal" or not sorted_calls
    assert torch.equal(fast, select_blocks(g, own, exact_sort=True, **options))


def test_ties_go_to_the_first():
    chosen = select_blocks(torch.zeros(1, 1, 24, 6), OWN, group="query_head", topk=2)
    assert (chosen[0, 0, 4:].nonzero()[:, 1].view(-1, 2)[:, 0] == 0).all()
    chosen = select_blocks(torch.zeros(1, 1, 4, 3), torch.zeros(4, dtype=torch.long), topk=2)
    assert chosen[0, 0].tolist() == [[True, True, True], [True, True, True], [True, False, False], [True, False, False]]


@pytest.mark.parametrize("group", GROUPS)
def test_density_falls_with_tau_and_own_blocks_stay(group):
    before = 1.1
    for tau in (1.0, 0.8, 0.5, 0.3, 0.1, 0.0):
        chosen = select_blocks(gates(), OWN, group=group, tau=tau)
        density = float(chosen.float().mean())
        assert 1 / 6 <= density <= before
        assert chosen[..., torch.arange(24), OWN].all()
        before = density
    assert select_blocks(gates(), OWN, group=group, tau=1.0).all()


def test_what_a_group_couples():
    g, other = gates(), gates()
    other[:, :, 5] = torch.randn(6, generator=torch.Generator().manual_seed(9))
    alone = torch.arange(24) != 5
    same = [select_blocks(t, OWN, group="query_head", tau=0.4)[:, :, alone] for t in (g, other)]
    assert torch.equal(*same)
    heads = select_blocks(g, OWN, tau=0.4)
    assert not torch.equal(heads[:, 0], heads[:, 1])
    scaled = g * torch.tensor([0.1, 7.0, 1.0])[:, None, None]
    assert torch.equal(
        select_blocks(scaled, OWN, group="query_head", tau=0.4), select_blocks(g, OWN, group="query_head", tau=0.4)
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("options", [{"tau": 0.4}, {"topk": 3}], ids=str)
@pytest.mark.parametrize("group", ["query_head", "head_global", "overall"])
def test_gates_that_are_not_finite_choose_their_own_block(group, options, value):
    g = gates()
    g[0, 1, 5] = value
    chosen = select_blocks(g, OWN, group=group, **options)
    assert chosen[0, 1, 5].nonzero().flatten().tolist() == [1]
    assert torch.equal(chosen[1], select_blocks(g[1:], OWN, group=group, **options)[0])
    g[:] = value
    assert torch.equal(select_blocks(g, OWN, group=group, **options)[1, 2], OWN[:, None] == torch.arange(6))


def test_means_and_gates():
    k = torch.randn(2, 2, 11, 4, generator=torch.Generator().manual_seed(0)).half()
    means = block_means(k, 4)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means[:, :, 2], k[:, :, 8:].float().mean(2))
    real = torch.arange(11) != 9
    torch.testing.assert_close(block_means(k, 4, real)[:, :, 2], k[:, :, [8, 10]].float().mean(2))
    torch.testing.assert_close(block_means(k, 20)[:, :, 0], k.float().mean(2))
    q = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = q @ means.repeat_interleave(3, 1).mT
    torch.testing.assert_close(gate(q, means), expected)


def test_empty_and_useless(unchecked):
    assert select_blocks(torch.zeros(1, 2, 0, 3), torch.zeros(0, dtype=torch.long)).shape == (1, 2, 0, 3)
    for options, words in (
        ({"group": "head"}, "unknown group"),
        ({"pool": "batch"}, "pool is"),
        ({"tau": None}, "either topk"),
        ({"tau": -0.1}, "either topk"),
        ({"topk": 0}, "at least 1"),
        ({"topk": 2, "group": "block"}, "threshold only"),
    ):
        with pytest.raises(ValueError, match=words):
            select_blocks(gates(), OWN, **options)
