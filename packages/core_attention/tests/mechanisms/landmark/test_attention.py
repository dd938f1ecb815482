"""Landmark attention: the fast path against the definition, and the properties of the weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.landmark.attention import (
    grouped_softmax,
    insert_landmarks,
    jumped_positions,
    landmark_attention,
    landmark_flags,
    landmarks_in,
    strip_landmarks,
)


def problem(heads=4, kv_heads=2, queries=37, keys=37, dim=6, value_dim=5, batch=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    shapes = [(heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, value_dim)]
    return [torch.randn(batch, *s, generator=g, dtype=dtype).requires_grad_() for s in shapes]


def with_gradients(inputs, **options):
    out = landmark_attention(*inputs, **options)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * probe).sum(), inputs)]


def scores(batch=2, heads=3, length=23):
    return torch.randn(batch, heads, length, length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scattered(length=23):
    flags = torch.rand(2, length, generator=torch.Generator().manual_seed(2)) < 0.2
    flags[:, 0] = False
    flags &= ~F.pad(flags, (1, 0))[:, :-1]  # each block has a token
    return flags


@pytest.mark.parametrize("block", [1, 2, 4, 51])
@pytest.mark.parametrize(("queries", "keys"), [(150, 150), (37, 300), (5, 317)])
def test_blocks_and_rows_equal_the_definition(block, queries, keys):
    inputs = problem(queries=queries, keys=keys, dim=4, value_dim=3, kv_heads=2 if block == 4 else 4)
    expected = with_gradients(inputs, block=block, backend="reference")
    for backend in ("blocks", "rows"):
        for ours, theirs in zip(with_gradients(inputs, block=block, backend=backend), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_landmarks_anywhere_and_padding():
    inputs, flags = problem(), scattered(37)
    mask = torch.ones(2, 37, dtype=torch.bool)
    mask[0, :9] = False
    options = {"is_landmark": flags, "mask": mask}
    for ours, theirs in zip(
        with_gradients(inputs, **options), with_gradients(inputs, backend="reference", **options), strict=True
    ):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs)
    out = landmark_attention(*inputs, **options)
    alone = landmark_attention(*(x[:1, :, 9:] for x in inputs), is_landmark=flags[:1, 9:])
    assert (out[0, :, :9] == 0).all()
    if not flags[0, :9].any():
        torch.testing.assert_close(out[:1, :, 9:], alone)


def test_rows_sum_to_one_and_landmarks_weigh_nothing():
    flags = scattered()
    weights, groups = grouped_softmax(scores(), flags)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights.masked_select(flags[:, None, None].expand_as(weights)) == 0).all()
    torch.testing.assert_close(groups.sum(-1), torch.ones_like(groups[..., 0]))
    assert (weights.triu(1) == 0).all()


@pytest.mark.parametrize("backend", ["reference", "blocks"])
def test_the_future_has_no_influence(backend):
    q, k, v = (x.detach() for x in problem())
    later = [x.clone() for x in (k, v)]
    for x in later:
        x[:, :, 20:] += 1
    before, after = (landmark_attention(q, *kv, block=4, backend=backend)[:, :, :20] for kv in ((k, v), later))
    assert torch.equal(before, after)


@pytest.mark.parametrize("options", [{"block": 100}, {"is_landmark": torch.zeros(37, dtype=torch.bool)}])
def test_without_landmarks_this_is_causal_attention(options):
    inputs = problem()
    expected = F.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(landmark_attention(*inputs, **options), expected)


def test_landmarks_that_equal_their_blocks_give_full_attention():
    s, flags = scores(), landmark_flags(23, 5)
    for g in range(4):
        s[..., 5 * g + 4] = s[..., 5 * g : 5 * g + 4].logsumexp(-1)
    weights, _ = grouped_softmax(s, flags[None])
    tokens = torch.ones(23, 23).bool().tril() & ~flags
    torch.testing.assert_close(weights, s.masked_fill(~tokens, -math.inf).softmax(-1))


def test_a_block_of_one_token_weighs_what_its_landmark_does():
    weights, groups = grouped_softmax(scores(length=12), landmark_flags(12, 2)[None])
    finished = torch.arange(6) < (torch.arange(12) // 2)[:, None]
    torch.testing.assert_close(weights[..., 0::2].masked_select(finished), groups[..., :-1].masked_select(finished))


def test_a_landmark_reads_as_the_token_before_it():
    s, flags = scores(), landmark_flags(23, 6)
    s[..., 11, :] = s[..., 10, :]
    weights, _ = grouped_softmax(s, flags[None])
    torch.testing.assert_close(weights[..., 11, :], weights[..., 10, :])


def test_group_dropout():
    inputs = [x.detach() for x in problem(heads=2, queries=12, keys=12)]
    expected = landmark_attention(*inputs, block=4)
    for backend in ("reference", "blocks"):
        torch.manual_seed(0)
        drawn = torch.stack(
            [landmark_attention(*inputs, block=4, group_dropout=0.3, backend=backend) for _ in range(150)]
        )
        # local weights are scaled up with the landmarks' shares, as published: without a landmark the factor alone remains
        torch.testing.assert_close(drawn[:, :, :, :4].mean(0), expected[:, :, :4] / 0.7)
        late = drawn[:, :, :, 4:].mean(0) - expected[:, :, 4:]
        assert 0 < late.abs().mean() < drawn[:, :, :, 4:].std(0).mean()

    def again(*x):
        torch.manual_seed(5)
        return landmark_attention(*x, block=3, group_dropout=0.4, backend="blocks")

    assert torch.autograd.gradcheck(
        again, problem(heads=2, kv_heads=1, queries=8, keys=8, dim=2, value_dim=2, batch=1), fast_mode=True
    )


def test_a_thousand_blocks():
    q, k, v = problem(heads=1, kv_heads=1, batch=1, queries=3000, keys=3000, dim=4)
    out = landmark_attention(q, k, v, block=3)
    tail = landmark_attention(q[:, :, -50:], k, v, block=3, backend="reference")
    torch.testing.assert_close(out[:, :, -50:], tail)


@pytest.mark.parametrize("before", [0, 1, 4, 5, 13])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 23])
@pytest.mark.parametrize("every", [1, 5])
def test_strip_undoes_insert_at_any_length(length, every, before):
    ids = torch.arange(2 * length).view(2, length)
    longer = insert_landmarks(ids, -1, every, before=before)
    assert longer.shape[1] == length + landmarks_in(length, every, before)
    assert torch.equal(strip_landmarks(longer, every, before=before), ids)
    assert torch.equal(longer[0] == -1, landmark_flags(before % every + longer.shape[1], every + 1)[before % every :])
    assert torch.equal(strip_landmarks(longer[:, :, None], every, before=before, dim=1), ids[:, :, None])


def test_a_stream_in_pieces_has_the_same_landmarks():
    ids = torch.arange(17)
    pieces = [insert_landmarks(ids[a:b], -1, 4, before=a) for a, b in ((0, 4), (4, 5), (5, 11), (11, 17))]
    assert torch.equal(torch.cat(pieces), insert_landmarks(ids, -1, 4))


def test_positions_jump_after_landmarks():
    flags = torch.tensor([False, True, False, True, False])
    assert jumped_positions(flags, torch.tensor([9, 2, 9, 5, 9])).tolist() == [0, 1, 4, 5, 11]


def test_capture_records_the_weights_of_chosen_rows():
    q, k, v = problem()
    with capture(None, rows=[3, 30], heads=[0, 3]) as maps:
        out = landmark_attention(q, k, v, block=4)
    weights = maps["function"]
    assert weights.shape == (2, 2, 2, 37)
    torch.testing.assert_close(weights @ v.repeat_interleave(2, dim=1)[:, [0, 3]], out[:, [0, 3]][:, :, [3, 30]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("backend", ["reference", "rows", "blocks"])
def test_bad_queries_stay_in_their_rows(bad, backend):
    q, k, v = (x.detach() for x in problem())
    q[0, 1, 7] = bad
    out = landmark_attention(q, k, v, block=4, backend=backend)
    assert not out[0, 1, 7].isfinite().any()
    out[0, 1, 7] = 0
    assert out.isfinite().all()


def test_half_precision_does_not_overflow():
    q, k, v = (x.detach().half() for x in problem())
    out = landmark_attention(q * 300, k * 300, v, block=4)
    assert out.dtype == torch.float16
    expected = landmark_attention(q.double() * 300, k.double() * 300, v.double(), block=4)
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("queries", [0, 4])
def test_nothing_to_attend_to(queries):
    inputs = problem(queries=queries, keys=0 if queries else 5)
    for backend in ("auto", "reference", "blocks"):
        out, *gradients = with_gradients(inputs, block=3, backend=backend)
        assert out.shape == (2, 4, queries, 5)
        assert (out == 0).all()
        assert all((g == 0).all() for g in gradients)


def test_strided_and_expanded_tensors():
    q, k, v = (x.detach() for x in problem())
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(landmark_attention(*strided, block=4), landmark_attention(q, k, v, block=4))
    one = [k[:, :1], v[:, :1]]
    expanded = landmark_attention(q, *(x.expand(-1, 4, -1, -1) for x in one), block=4)
    torch.testing.assert_close(expanded, landmark_attention(q, *one, block=4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo, at the frame of the type checker
def test_compiles_and_autocasts():
    inputs = problem(dtype=torch.float32)
    expected = with_gradients(inputs, block=4)
    out = torch.compile(landmark_attention, backend="aot_eager")(*inputs, block=4)
    torch.testing.assert_close(out, expected[0])
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    for ours, theirs in zip(torch.autograd.grad((out * probe).sum(), inputs), expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(landmark_attention(*inputs, block=4), expected[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"k": torch.zeros(2, 3, 37, 6), "v": torch.zeros(2, 3, 37, 5)},
            r"multiple of key heads: q \(2, 4, 37, 6\), k \(2, 3, 37, 6\)",
        ),
        ({"k": torch.zeros(2, 2, 30, 6)}, r"differ: q \(2, 4, 37, 6\), k \(2, 2, 30, 6\)"),
        ({"q": torch.zeros(2, 4, 50, 6)}, r"more queries than keys.*\(2, 4, 50, 6\)"),
        ({"q": torch.zeros(4, 37, 6)}, r"four axes: q \(4, 37, 6\)"),
        ({"q": torch.zeros(2, 4, 37, 6, dtype=torch.long)}, "floating point"),
        ({"block": None}, "give either block"),
        ({"is_landmark": torch.zeros(37, dtype=torch.bool)}, "give either block"),
        ({"block": 0}, "block must be at least 1, got 0"),
        (
            {"block": None, "is_landmark": torch.zeros(5, dtype=torch.bool)},
            r"\(batch, keys\) = \(2, 37\), got \(1, 5\)",
        ),
        ({"mask": torch.ones(2, 5, dtype=torch.bool)}, r"mask must be \(batch, keys\) = \(2, 37\), got \(2, 5\)"),
        ({"mask": torch.ones(2, 37, dtype=torch.bool), "backend": "blocks"}, "'blocks' needs landmarks given by block"),
    ],
)
def test_errors_quote_the_shapes(change, message):
    given = dict(zip("qkv", problem(dtype=torch.float32), strict=True)) | {"block": 4}
    with pytest.raises(ValueError, match=message):
        landmark_attention(**given | change)
    with pytest.raises(ValueError, match="at least one token before its landmark, got every=0"):
        insert_landmarks(torch.zeros(4), 1, 0)
