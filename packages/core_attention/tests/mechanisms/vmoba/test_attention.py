"""Mixture of blocks for video: the acceptance checks of the mechanism, and its edges."""

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.vmoba.attention import MixtureOfBlocks, choose_blocks, mixture_of_blocks, partition

CHUNKS = [2, 1.5, (2, 2), (2, 2, 2)]


def qkv(grid=(4, 4, 4), heads=2, kv_heads=2, batch=1, dim=8, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1] * grid[2]
    return [
        torch.randn(batch, h, tokens, dim, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    ]


def dense(q, k, v, chosen, blocks):
    """Masked softmax attention over the chosen blocks, in original token order."""
    rows = blocks.inverse(chosen)
    place = torch.arange(len(blocks.real()) if blocks.real() is not None else q.shape[2]).view(1, 1, -1, 1)
    owner = (blocks.inverse(place) // blocks.block).flatten()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=rows[..., owner], enable_gqa=True)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("options", [{"tau": 1.0}, {"tau": 3.0}, {"topk": 8}, {"topk": 99}], ids=str)
def test_everything_chosen_is_full_attention(chunk, options):
    q, k, v = qkv()
    out = mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=chunk, **options)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"topk": 1}, {}], ids=str)
def test_one_block_is_full_attention(options):
    q, k, v = qkv()
    for chunk in (4, (4, 4), (9, 9, 9)):
        out = mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=chunk, **options)
        torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("grid", [(2, 4, 4), (4, 6, 8), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_there_and_back(grid, chunk):
    tokens = torch.arange(grid[0] * grid[1] * grid[2]).view(1, 1, -1, 1)
    blocks = partition(grid, chunk)
    assert torch.equal(blocks.inverse(blocks.permute(tokens)), tokens)
    assert blocks.block * blocks.blocks >= tokens.numel()


def test_members_by_hand():
    """A 2 × 4 × 4 grid: token (t, h, w) has number 16 t + 4 h + w."""
    number = torch.arange(32).view(1, 1, -1, 1)
    members = lambda chunk: partition((2, 4, 4), chunk).permute(number).flatten().tolist()  # noqa: E731
    assert members(0.5) == list(range(32))
    assert partition((2, 4, 4), 0.5).block == 8
    assert members((2, 2))[:8] == [0, 1, 4, 5, 16, 17, 20, 21]
    assert members((2, 2))[8:16] == [2, 3, 6, 7, 18, 19, 22, 23]
    assert members((1, 2, 4))[:16] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert members((1, 4, 2))[:8] == [0, 1, 4, 5, 8, 9, 12, 13]
    short = partition((5, 1, 3), 2)
    assert (short.block, short.blocks) == (6, 3)


@pytest.mark.parametrize("group", ["query_head", "head_global", "block", "overall"])
@pytest.mark.parametrize(
    ("grid", "chunk"), [((4, 4, 4), 1.5), ((3, 5, 7), (2, 3)), ((3, 5, 7), (2, 2, 4)), ((4, 4, 4), (2, 4, 2))], ids=str
)
def test_equals_dense_masked_attention(grid, chunk, group):
    q, k, v = qkv(grid, heads=4, batch=2)
    blocks = partition(grid, chunk)
    chosen = choose_blocks(blocks.permute(q), blocks.permute(k), blocks, tau=0.4, group=group)
    ours = mixture_of_blocks(q, k, v, grid=grid, chunk=chunk, tau=0.4, group=group)
    theirs = dense(q, k, v, chosen, blocks)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), [q, k, v]) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_grids_that_do_not_divide():
    """Padding chooses nothing, is chosen by nothing, and moves no mean: with everything chosen it is full attention."""
    q, k, v = qkv((3, 5, 7))
    for chunk in ((2, 3), (2, 2, 4), (3, 5, 4)):
        out = mixture_of_blocks(q, k, v, grid=(3, 5, 7), chunk=chunk, tau=1.0)
        torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
        blocks = partition((3, 5, 7), chunk)
        chosen = choose_blocks(blocks.permute(q), blocks.permute(k), blocks, tau=0.3)
        assert not chosen[:, :, ~blocks.real()].any()
        assert chosen[:, :, blocks.real()].any(-1).all()


def test_samples_alone_and_packed():
    q, k, v = qkv(batch=2)
    options = {"grid": (4, 4, 4), "chunk": (2, 2, 2), "tau": 0.3}
    both = mixture_of_blocks(q, k, v, **options)
    torch.testing.assert_close(both[:1], mixture_of_blocks(q[:1], k[:1], v[:1], **options), rtol=0, atol=0)
    packed = mixture_of_blocks(q, k * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), v, pool="packed", **options)
    alone = mixture_of_blocks(q[:1], k[:1], v[:1], pool="packed", **options)
    assert not torch.allclose(packed[:1], alone)


def test_layers_take_partitions_in_turn():
    chunks = (2, (2, 2), (2, 2, 2))
    layers = [MixtureOfBlocks(chunks, layer=n, tau=0.3) for n in range(4)]
    assert [layer.chunk for layer in layers] == [*chunks, 2]
    assert not layers[0].state_dict()
    q, k, v = qkv()
    out = layers[3](q, k, v, (4, 4, 4))
    torch.testing.assert_close(out, mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=2, tau=0.3))
    with pytest.raises(TypeError, match="unknown options: threshold"):
        MixtureOfBlocks(chunks, threshold=0.3)
    with pytest.raises(ValueError, match="at least one chunk"):
        MixtureOfBlocks([])


def test_short_sequences_may_switch_to_full_attention():
    q, k, v = qkv()
    options = {"grid": (4, 4, 4), "chunk": 1, "tau": 0.0}
    full = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(mixture_of_blocks(q, k, v, full_below=65, **options), full)
    assert not torch.allclose(mixture_of_blocks(q, k, v, full_below=64, **options), full)


def test_own_block_is_optional():
    q, k, _ = qkv()
    blocks = partition((4, 4, 4), (2, 2, 2))
    own = torch.arange(64) // 8
    chosen = choose_blocks(blocks.permute(q), blocks.permute(k), blocks, topk=1, group="query_head", include_self=False)
    assert (chosen.sum(-1) == 1).all()
    assert not chosen[:, :, torch.arange(64), own].all()


def test_grouped_queries():
    q, k, v = qkv(heads=4)
    out = mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=(2, 2), tau=0.3)
    wide = [t.repeat_interleave(2, 1) for t in (k, v)]
    torch.testing.assert_close(out, mixture_of_blocks(q, *wide, grid=(4, 4, 4), chunk=(2, 2), tau=0.3))


@pytest.mark.parametrize("group", ["query_head", "head_global", "overall"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_in_a_query_stays_in_its_row(group, value):
    q, k, v = (t.detach() for t in qkv())
    q[:, 0, 7] = value
    out = mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=(2, 2), tau=0.3, group=group)
    assert out[:, 0, 7].isnan().all()
    out[:, 0, 7] = 0
    assert out.isfinite().all()


def test_half_precision_and_large_keys():
    q, k, v = qkv(dtype=torch.bfloat16)
    out = mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=(2, 2), tau=0.3)
    assert out.dtype == torch.bfloat16
    wide = [t.float() for t in (q, k, v)]
    torch.testing.assert_close(
        out.float(), mixture_of_blocks(*wide, grid=(4, 4, 4), chunk=(2, 2), tau=0.3), rtol=0.05, atol=0.05
    )
    q, k, v = (
        t.detach() * 200 for t in qkv(dtype=torch.float16)
    )  # gates and scores beyond the range of half precision
    assert mixture_of_blocks(q, k, v, grid=(4, 4, 4), chunk=(2, 2), tau=0.3).isfinite().all()


def test_capture_gives_blocks_and_weights():
    q, k, v = qkv((3, 5, 7), dtype=torch.float32)
    options = {"grid": (3, 5, 7), "chunk": (2, 2, 4), "tau": 0.4}
    with capture(None) as maps:
        out = mixture_of_blocks(q, k, v, **options)
    torch.testing.assert_close(maps["function"] @ v, out)
    with capture(None, rows=[3], heads=1, kinds="blocks") as maps:
        mixture_of_blocks(q, k, v, **options)
    blocks = partition((3, 5, 7), (2, 2, 4))
    chosen = blocks.inverse(choose_blocks(blocks.permute(q), blocks.permute(k), blocks, tau=0.4))
    assert torch.equal(maps.all("function", "blocks")[0], chosen[:, 1:2, 3:4])


def test_sizes_that_do_not_fit(unchecked):
    q, k, v = qkv()
    with pytest.raises(ValueError, match=r"holds 60 tokens.*\(1, 2, 64, 8\)"):
        mixture_of_blocks(q, k, v, grid=(4, 5, 3), chunk=2)
    for grid, chunk, words in (
        ((0, 4, 4), 2, "at least 1"),
        ((4, 4, 4), 0.01, "holds no token"),
        ((4, 4, 4), (2,), "a chunk is a number"),
        ((4, 4, 4), (2, 0), "a chunk is a number"),
    ):
        with pytest.raises(ValueError, match=words):
            partition(grid, chunk)
