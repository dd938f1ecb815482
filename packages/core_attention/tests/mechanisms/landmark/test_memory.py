"""The memory of landmark attention: reading in chunks against reading at once, eviction, offload, ties."""

import pytest
import torch

from core_attention.mechanisms.landmark.layer import LandmarkAttention
from core_attention.mechanisms.landmark.memory import LandmarkMemory, chunk_length
from core_attention.mechanisms.landmark.token import _largest

CHOICES = ["per_token_and_head", "max_over_heads", "max_over_tokens"]


def layer(**options):
    torch.manual_seed(0)
    return LandmarkAttention(24, 4, num_kv_heads=2, block=5, **options).double()


def stream(length=43, batch=2):
    return torch.randn(batch, length, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("split", [[43], [1] * 43, [7, 20, 5, 11], [5, 38], [4, 1, 38]])
@torch.no_grad()
def test_with_all_blocks_in_reach_chunks_equal_one_forward(pairing, choice, split):
    # a key that is read at its true distance: top_k + 1 blocks hold everything
    module, x = layer(pairing=pairing), stream()
    memory = module.new_cache(9, choice=choice)
    parts = [module(part, cache=memory) for part in x.split(split, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x))
    assert len(memory) == 8
    assert memory.length == 43
    assert memory.start == 9 * 5 + 3


@pytest.mark.parametrize("choice", CHOICES)
@torch.no_grad()
def test_a_batch_equals_each_sample_alone(choice):
    module, x = layer(), stream(80)
    memory = module.new_cache(2, choice=choice, capacity=7)
    together = torch.cat([module(part, cache=memory) for part in x.split(9, dim=1)], dim=1)
    for i in range(2):
        memory = module.new_cache(2, choice=choice, capacity=7)
        alone = torch.cat([module(part, cache=memory) for part in x[i : i + 1].split(9, dim=1)], dim=1)
        torch.testing.assert_close(together[i : i + 1], alone)


@torch.no_grad()
def test_slices_of_queries_do_not_matter(monkeypatch):
    module, x = layer(), stream(60)
    results = []
    for scratch in (1, 1 << 24):
        monkeypatch.setattr("core_attention.mechanisms.landmark.memory.SCRATCH", scratch)
        memory = module.new_cache(3)
        results.append(torch.cat([module(part, cache=memory) for part in x.split(25, dim=1)], dim=1))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("options", [{"offload": True}, {"dtype": torch.float32}, {"capacity": 4}])
@torch.no_grad()
def test_where_and_how_blocks_are_kept(options):
    module, x = layer(), stream(100)
    memory, plain = (
        module.new_cache(3, choice="max_over_tokens", **options),
        module.new_cache(3, choice="max_over_tokens"),
    )
    for part in x.split(12, dim=1):
        ours, expected = module(part, cache=memory), module(part, cache=plain)
    if "capacity" in options:
        assert len(memory) == 4
        assert memory.landmarks.shape[2] <= 16
    else:
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        assert len(memory) == 20
    memory.reset()
    assert (len(memory), memory.length, memory.start) == (0, 0, 0)
    torch.testing.assert_close(module(x[:, :7], cache=memory), module(x[:, :7]))


def test_equal_scores_prefer_the_newest_block():
    memory = LandmarkMemory(2, 2)
    k = torch.zeros(1, 1, 10, 4)
    v = torch.arange(10.0).view(1, 1, 10, 1)
    memory.store(k, v)
    prefix = memory.retrieve(torch.ones(1, 1, 1, 4))
    assert prefix.values[0, 0, 0, :, 0].tolist() == [6, 7, 8, 9]
    assert prefix.is_landmark[0].tolist() == [False, True, False, True]
    assert prefix.start == 6


@torch.no_grad()
def test_a_needle_far_back_is_read():
    """Of 400 blocks the one whose landmark answers the query is chosen, whatever its age."""
    memory = LandmarkMemory(5, 1, theta=1e9)
    k = torch.zeros(1, 1, 2000, 8)
    v = torch.zeros(1, 1, 2000, 1)
    k[:, :, 115 + 4] = 3.0  # the landmark of block 23
    v[:, :, 115:119] = 1.0
    memory.store(k, v)
    out = memory.attend(torch.full((1, 1, 1, 8), 3.0), torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 1, 1))
    assert out.item() > 0.99


def test_the_largest_and_of_equals_the_last():
    torch.manual_seed(0)
    score = torch.randint(0, 9, (3, 4, 1, 50)).double()
    score[0, 0, 0, 7] = torch.nan
    ours = _largest(score, 6).sort(-1).values
    flipped = score.nan_to_num(nan=torch.inf).flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :6]
    assert torch.equal(ours, (49 - flipped).sort(-1).values)


def test_before_anything_is_stored():
    memory = LandmarkMemory(4, 2)
    prefix = memory.retrieve(torch.zeros(1, 2, 3, 8))
    assert prefix.scores.shape == (1, 2, 3, 0)
    assert prefix.start == 0
    assert memory.attend(torch.zeros(1, 2, 0, 8), torch.zeros(1, 1, 0, 8), torch.zeros(1, 1, 0, 5)).shape == (
        1,
        2,
        0,
        5,
    )


def test_chunk_length():
    assert chunk_length(512, 51, 4) == 510 - 255
    with pytest.raises(ValueError, match=r"10 \+ 1 blocks of 51 leave no room in a context of 512"):
        chunk_length(512, 51, 10)


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        LandmarkMemory(5, 0)
    with pytest.raises(ValueError, match="unknown choice 'best'"):
        LandmarkMemory(5, 1, choice="best")
    memory = LandmarkMemory(5, 1)
    q, k, v = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8)
    with pytest.raises(ValueError, match=r"multiple of key heads: q \(1, 4, 3, 8\), k \(1, 3, 3, 8\)"):
        memory.attend(q, torch.zeros(1, 3, 3, 8), torch.zeros(1, 3, 3, 8))
    with pytest.raises(ValueError, match=r"q \(1, 4, 3, 8\), k \(1, 2, 2, 8\)"):
        memory.attend(q, k[:, :, :2], v[:, :, :2])
    memory.attend(q, k, v)
    with pytest.raises(
        ValueError, match=r"the memory holds \(batch, kv_heads, ·, dim\) = \(1, 2, 3, 8\): q \(2, 4, 3, 8\)"
    ):
        memory.attend(*(x.repeat(2, 1, 1, 1) for x in (q, k, v)))
    module = layer()
    with pytest.raises(ValueError, match="a memory counts landmarks and positions itself"):
        module(stream(5), cache=module.new_cache(2), positions=torch.arange(5))
    with pytest.raises(ValueError, match=r"expected \(batch, length, 24\), got \(1, 5, 8\)"):
        module(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match="got 10, 4 and 4"):
        LandmarkAttention(10, 4)
