"""The front door among torch's own tools: transforms, autocast, dropout, NaN in padding, masks' vocabulary, names (graphs: test_graphs)."""

import copy
import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import core_attention
from core_attention.attention import attention
from core_attention.backends.dropout import Dropout, factors
from core_attention.masks import (
    Additive,
    Alibi,
    Blocks,
    Causal,
    Dense,
    KeyLengths,
    Mask,
    Part,
    RelativePosition,
    Run,
    Segments,
    Size,
    Window,
)

pytestmark = pytest.mark.usefixtures("unchecked")
CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- transforms -----------------------------------------------------------------------------------------------------

MASKS = {
    "no mask": lambda: None,
    "causal": Causal,
    "window": lambda: Window(2, 1),
    "lengths": lambda: KeyLengths(torch.tensor([4])),
    "either": lambda: Window(1, 0) | ~Causal(),
    "a user's own": lambda: Even(),
}


class Even(Mask):
    """Keys at even places, by a class that the package does not know."""

    def allowed(self, size, part, device):
        keys = torch.arange(size.keys, device=device) if part.keys is None else torch.arange(*part.keys, device=device)
        return (keys % 2 == 0)[None, None, None]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", MASKS)
def test_vmap_fake_tensors_and_make_fx(name):
    def run(a):
        return attention(a, a, a, mask=MASKS[name]())

    many = random(3, 1, 2, 6, 8)
    torch.testing.assert_close(torch.func.vmap(run)(many), torch.stack([run(a) for a in many]))
    with FakeTensorMode():
        assert run(torch.empty(1, 2, 6, 8)).shape == (1, 2, 6, 8)
    graph = make_fx(run, tracing_mode="fake")(many[0])
    torch.testing.assert_close(graph(many[1]), run(many[1]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", MASKS)
def test_gradients_by_torch_func(name):
    """A gradient per sample; forward mode, against finite differences, where torch's own call has none for the plain case."""

    def total(a):
        return attention(a, a, a, mask=MASKS[name]()).square().sum()

    many = random(3, 1, 2, 6, 8).double()
    expected = []
    for a in many:
        leaf = a.clone().requires_grad_()
        expected += torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(many), torch.stack(expected))
    if name not in ("no mask", "causal"):
        x, along, step = many[0], many[1], 1e-6
        slope = torch.func.jvp(total, (x,), (along,))[1]
        torch.testing.assert_close(
            slope, (total(x + step * along) - total(x - step * along)) / (2 * step), rtol=1e-6, atol=1e-6
        )


def test_a_learned_bias_has_its_gradient_by_torch_func():
    x, table = random(1, 2, 6, 8).double(), random(2, 5, seed=1).double().requires_grad_()

    def total(table):
        return attention(x, x, x, bias=RelativePosition(table)).square().sum()

    (expected,) = torch.autograd.grad(total(table), table)
    torch.testing.assert_close(torch.func.grad(total)(table.detach()), expected)


class NoValueRead(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: an operator whose result the host waits for."""

    READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.READS), f"{func} reads a value"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["no mask", "causal"])
def test_the_plain_case_reads_no_value(name):
    """What a CUDA graph needs, asked without one; `backends/test_cuda.py` captures one where there is a GPU.

    Pieces of other masks are cut by values on the CPU; on CUDA kernels take them whole.
    """
    q, k, v = (random(1, 2, 40, 8, seed=s).requires_grad_() for s in range(3))
    with NoValueRead():
        out = attention(q, k, v, mask=MASKS[name]())
        torch.autograd.grad(out.sum(), (q, k, v))


def test_a_value_that_is_read_is_found():
    with pytest.raises(AssertionError, match="reads a value"), NoValueRead():
        bool(torch.ones(2).sum() > 0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_lengths_may_differ_under_vmap():
    x, lengths = random(3, 1, 2, 6, 8), torch.tensor([[1], [6], [3]])
    got = torch.func.vmap(lambda a, n: attention(a, a, a, mask=KeyLengths(n)))(x, lengths)
    want = torch.stack([attention(a, a, a, mask=KeyLengths(n)) for a, n in zip(x, lengths, strict=True)])
    torch.testing.assert_close(got, want)


def test_the_plain_case_is_torchs_own_call():
    q, k = random(2, 4, 7, 8), random(2, 4, 7, 8, seed=1)
    assert torch.equal(attention(q, k, q), F.scaled_dot_product_attention(q, k, q))
    assert torch.equal(attention(q, k, q, mask=Causal()), F.scaled_dot_product_attention(q, k, q, is_causal=True))
    for mask in (Causal(6), Causal(align="end")):  # one decoded query sees every key
        assert torch.equal(attention(q[:, :, :1], k, q, mask=mask), F.scaled_dot_product_attention(q[:, :, :1], k, q))


# --- autocast -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, Causal(), Window(2, 2)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast_casts_as_torchs_own(mask, backend):
    q, k, v = random(1, 2, 10, 8), random(1, 2, 10, 8, seed=1), random(1, 2, 10, 8, seed=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v, mask=mask, backend=backend)
        assert out.dtype == F.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16
    torch.testing.assert_close(out, attention(q.bfloat16(), k.bfloat16(), v, mask=mask), rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="one dtype"):
        attention(q, k, v, mask=mask, backend=backend)


# --- what is masked is not read -------------------------------------------------------------------------------------


def finite_where_seen(mask, hidden, seen, *, size, backend, heads=2):
    """Runs with NaN in hidden keys and values, and with other numbers there: what is seen must be the same, its gradients finite."""
    found = []
    for filler in (float("nan"), 1.0):
        q, k, v = (random(size[0], heads, size[1], 8, seed=s) for s in range(3))
        for t in (k, v):
            t.transpose(1, 2)[hidden] = filler
        leaves = [t.requires_grad_() for t in (q, k, v)]
        out = attention(*leaves, mask=mask, backend=backend)
        kept = out.transpose(1, 2)[seen]
        found.append([kept, *(g.transpose(1, 2)[~hidden] for g in torch.autograd.grad((kept**2).sum(), leaves))])
    for with_nan, without in zip(*found, strict=True):
        torch.testing.assert_close(with_nan, without, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("n", "lengths"), [(20, (7, 20)), (200, (100, 200)), (256, (240, 256)), (300, (100, 300)), (9, (0, 9))]
)
def test_nan_behind_lengths(n, lengths, backend):
    lengths = torch.tensor(lengths)
    hidden = torch.arange(n) >= lengths[:, None]
    seen = torch.ones(2, n, dtype=torch.bool)
    for mask in (KeyLengths(lengths), Causal() & KeyLengths(lengths), Dense(~hidden[:, None, None])):
        finite_where_seen(mask, hidden, seen, size=(2, n), backend=backend)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("order", ["runs", "interleaved"])
@pytest.mark.parametrize("also", ["", "causal", "window"])
def test_nan_in_another_segment(order, also, backend):
    ids = torch.arange(40)[None] // 13 if order == "runs" else torch.arange(40)[None] % 3
    hidden = ids == 1
    mask = {"": Segments(ids), "causal": Causal() & Segments(ids), "window": Window(9, 2) & Segments(ids)}[also]
    finite_where_seen(mask, hidden, ids != 1, size=(1, 40), backend=backend)


def test_nan_in_a_query_on_the_plain_path_is_torchs_own_answer():
    q, k = random(1, 2, 6, 8), random(1, 2, 6, 8, seed=1)
    clean = attention(q, k, k)
    q[0, 1, 2, 3] = float("nan")
    out = attention(q, k, k)
    assert torch.equal(out.nan_to_num(7), F.scaled_dot_product_attention(q, k, k).nan_to_num(7))
    out[0, 1, 2] = clean[0, 1, 2]
    assert torch.equal(out, clean)  # it stays in its row


# --- scale, dropout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [-1.0, 0.0])
@pytest.mark.parametrize("mask", [None, Causal(), Causal(2), Window(2, 0)], ids=str)
def test_scales_that_are_not_positive(mask, scale):
    q, k, v = (random(1, 2, 6, 4, seed=s).requires_grad_() for s in range(3))
    found = []
    for backend in ("auto", "reference"):
        out = attention(q, k, v, mask=mask, scale=scale, backend=backend)
        found.append([out, *torch.autograd.grad((out**2).sum(), (q, k, v))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_keeps_its_share_and_the_mean():
    size = Size(2, 3, 40, 50)
    drawn = Dropout(0.3, torch.tensor(2**61 + 12345))
    whole = factors(drawn, size, Part(), CPU)
    assert whole.shape == (2, 3, 40, 50)
    assert whole.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert abs((whole == 0).float().mean().item() - 0.3) < 0.02
    for dim in range(4):  # no sample, head, query or key is treated like another
        shares = (whole == 0).float().mean([d for d in range(4) if d != dim])
        assert (shares - 0.3).abs().max() < 0.12
        first, second = whole.select(dim, 0), whole.select(dim, 1)
        assert 0.5 < (first == second).float().mean() < 0.66  # 0.7² + 0.3²
    part = Part(batch=Run(1, 2), rows=torch.tensor([39, 2]), keys=Run(7, 50))
    assert torch.equal(factors(drawn, size, part, CPU), whole[1:, :, [39, 2], 7:])
    other = factors(Dropout(0.3, torch.tensor(7)), size, Part(), CPU)
    assert 0.5 < (other == whole).float().mean() < 0.66


@pytest.mark.parametrize("mask", [None, Causal() & KeyLengths(torch.tensor([3, 9])), Window(2, 2)], ids=str)
def test_dropout_is_seeded_and_the_same_everywhere(mask):
    q = random(2, 2, 9, 8)
    found = []
    for backend in ("auto", "sdpa", "reference"):
        torch.manual_seed(5)
        found.append(attention(q, q, q, mask=mask, dropout=0.5, backend=backend))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], attention(q, q, q, mask=mask, dropout=0.5))
    mean = torch.stack([attention(q, q, q, mask=mask, dropout=0.2) for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, attention(q, q, q, mask=mask), rtol=0.3, atol=0.15)
    with pytest.raises(ValueError, match="0 ≤ dropout < 1, got 1"):
        attention(q, q, q, dropout=1.0)


# --- second derivatives ------------------------------------------------------------------------------------------------


def small_problem():
    return [random(1, 2, 3, 2, seed=s).double().requires_grad_() for s in range(3)]


@pytest.mark.parametrize("mask", [None, Causal(), Window(1, 0), KeyLengths(torch.tensor([2]))], ids=str)
def test_the_reference_has_second_derivatives(mask):
    assert torch.autograd.gradgradcheck(lambda *qkv: attention(*qkv, mask=mask, backend="reference"), small_problem())


def second_gradients(mask, backend):
    q, k, v = small_problem()
    (first,) = torch.autograd.grad(attention(q, k, v, mask=mask, backend=backend).pow(3).sum(), q, create_graph=True)
    first.square().sum().backward()
    return q.grad, k.grad, v.grad


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
@pytest.mark.parametrize("mask", [Window(1, 0), KeyLengths(torch.tensor([2]))], ids=str)
def test_pieces_refuse_second_derivatives(mask, backend):
    assert all(gradient.isfinite().all() for gradient in second_gradients(mask, "reference"))
    with pytest.raises(RuntimeError, match="no second derivative"):
        second_gradients(mask, backend)


@pytest.mark.parametrize("learned", ["queries", "bias", "slopes"])
def test_no_second_derivative_is_left_out_of_a_sum(learned):
    """`torch.autograd.grad` with inputs runs only what lies between: what refuses must lie there, too."""
    q, k, v = (tensor.detach() for tensor in small_problem())
    x, bias = q.clone(), None
    if learned != "queries":
        x = torch.full((3, 3) if learned == "bias" else (2,), 0.3, dtype=torch.float64)
        bias = x if learned == "bias" else Alibi(x)
    x.requires_grad_()
    q = x if learned == "queries" else q
    out = attention(q, k, v, mask=Window(1, 0), bias=bias)
    (first,) = torch.autograd.grad(out.square().sum() + x.pow(3).sum(), x, create_graph=True)
    assert first.isfinite().all()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.sum(), x)


def test_the_hessian_of_a_masked_call_is_refused_or_right():
    x = random(1, 1, 3, 2).double()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.functional.hessian(lambda x: attention(x, x, x, mask=Window(1, 0)).square().sum(), x)


@pytest.mark.parametrize("mask", [None, Causal()], ids=str)
def test_second_derivatives_of_torchs_own_call_are_those_of_torch(mask):
    """torch has them or says that it has none; never others."""
    try:
        ours = second_gradients(mask, "sdpa")
    except RuntimeError as refusal:
        assert "not implemented" in str(refusal)  # noqa: PT017
    else:
        for found, expected in zip(ours, second_gradients(mask, "reference"), strict=True):
            torch.testing.assert_close(found, expected)


# --- masks: one vocabulary ------------------------------------------------------------------------------------------


def test_a_mask_that_can_be_read_in_two_ways_is_refused():
    q = random(4, 1, 4, 8)
    padding = torch.arange(4) < torch.tensor([1, 2, 3, 4])[:, None]
    with pytest.raises(ValueError, match=r"mask\[None, None\] for the first, key_mask=mask for the second"):
        attention(q, q, q, mask=padding)
    with pytest.raises(ValueError, match=r"\(3, 4\) is \(batch, keys\).*pass it as key_mask="):
        attention(q[:3], q[:3], q[:3], mask=padding[:3])
    want = attention(q, q, q, mask=padding[:, None, None])
    torch.testing.assert_close(attention(q, q, q, key_mask=padding), want)
    torch.testing.assert_close(attention(q, q, q, mask=KeyLengths(padding.sum(1))), want)
    with pytest.raises(ValueError, match=r"\(batch, keys\) = \(4, 4\), got \(4, 5\)"):
        attention(q, q, q, key_mask=torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"write key_mask.bool\(\)"):
        attention(q, q, q, key_mask=padding.long())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Blocks(torch.ones(1, 1, 1, 1, dtype=torch.bool), 0), "at least 1 position, got 0"),
        (lambda: KeyLengths([3, 4]), r"must be a tensor, got list: write torch.tensor\(\[3, 4\]\)"),
        (lambda: KeyLengths(torch.tensor([-1, 9])), "from 0 to the 5 keys there are: got -1 … 9"),
        (lambda: Causal(1.5), "whole number of positions, got 1.5"),
        (lambda: Causal(align="right"), "'start' or 'end', got 'right'"),
        (lambda: Window(2.5, 1), "left is a whole number of positions, got 2.5"),
        (lambda: Window(1, 1) | Additive(torch.zeros(5, 5)), "Additive is added to scores: it combines with & only"),
        (lambda: ~Alibi(torch.ones(2)), "not with ~"),
        (lambda: "causal", "a bool tensor or a mask of core_attention.masks, got str"),
        (lambda: Alibi(torch.ones(3)), r"one float slope per head, \(2,\)"),
        (lambda: RelativePosition(torch.ones(2, 4)), r"\(2, 2 · reach \+ 1\): got torch.float32 of shape \(2, 4\)"),
        (lambda: Segments.from_cu_seqlens(torch.tensor([0, 9]), 5), "at most the 5 tokens of the row"),
    ],
)
def test_bad_masks_are_refused_in_words(make, match):
    q = random(2, 2, 5, 8)
    with pytest.raises(ValueError, match=match):
        attention(q, q, q, mask=make())


def test_bad_tensors_are_refused_in_words():
    q = random(2, 2, 5, 8)
    with pytest.raises(ValueError, match=r"torch\.float32, torch\.bfloat16.*float8"):
        attention(*[q.to(torch.float8_e4m3fn)] * 3)
    nested = torch.nested.nested_tensor([q[0], q[1]], layout=torch.jagged)
    with pytest.raises(ValueError, match="nested tensor: pad it and pass key_mask="):
        attention(nested, nested, nested, mask=Window(1, 1))
    huge, tiny = torch.full((1, 1, 4, 64), 1e37), random(1, 1, 4, 64) * 1e-37
    assert attention(huge, tiny, random(1, 1, 4, 64), mask=Window(1, 1)).isfinite().all()


def test_either_and_not():
    q, k = random(1, 1, 6, 4), random(1, 1, 8, 4, seed=1)
    mask = (Window(0, 0) | Dense((torch.arange(8) < 2)[None])) & ~Causal(-3)
    i, j = torch.arange(6)[:, None], torch.arange(8)
    want = ((i == j) | (j < 2)) & ~(j <= i - 3)
    torch.testing.assert_close(attention(q, k, k, mask=mask), attention(q, k, k, mask=want))
    assert (attention(q, k, k, mask=~(Window(None, None) | Causal())) == 0).all()
    assert ~~Causal(1) == Causal(1)


def test_a_mask_that_hides_nothing_of_a_piece():
    q = random(1, 2, 70, 8)
    mask = Window(None, None) | Causal()
    for scale in (0.0, 1.0):
        expected = attention(q, q, q, mask=mask, scale=scale, backend="reference")
        torch.testing.assert_close(attention(q, q, q, mask=mask, scale=scale), expected)


def test_causal_at_the_end():
    q, k = random(1, 2, 3, 4), random(1, 2, 8, 4, seed=1)
    assert torch.equal(attention(q, k, k, mask=Causal(align="end")), attention(q, k, k, mask=Causal(5)))
    assert torch.equal(attention(q, k, k, mask=Causal(-1, align="end")), attention(q, k, k, mask=Causal(4)))


def test_alibi_and_relative_positions():
    assert Alibi.geometric(8).slopes.tolist() == [2**-n for n in range(1, 9)]
    assert Alibi.geometric(3).slopes.tolist() == [2**-4, 2**-8, 2**-2]
    size = Size(1, 2, 3, 5)
    bias = Alibi(torch.tensor([1.0, 0.5]), 2).bias(size, Part(), CPU)
    assert bias[0, :, 1].tolist() == [[-3, -2, -1, 0, -1], [-1.5, -1, -0.5, 0, -0.5]]
    table = RelativePosition(torch.arange(10.0).view(2, 5)).bias(size, Part(), CPU)
    assert table[0, 1].tolist() == [[7, 8, 9, 9, 9], [6, 7, 8, 9, 9], [5, 6, 7, 8, 9]]


def test_segments_from_cu_seqlens():
    packed = Segments.from_cu_seqlens(torch.tensor([0, 3, 3, 7]), 9, torch.tensor([0, 1, 4, 6]), 6)
    assert packed.query.tolist() == [[0, 0, 0, 2, 2, 2, 2, -1, -1]]
    assert packed.keys.tolist() == [[0, 1, 1, 1, 2, 2]]


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_of_the_package():
    from core_attention import Causal, Window, attention, capture, convert_model, explain, routed_attention  # noqa: F401
    from core_attention.attention import attention as same

    importlib.import_module("core_attention.capture.watching")
    assert core_attention.attention is attention is same
    assert core_attention.capture is capture
    assert importlib.import_module("core_attention.attention").explain is explain
    assert core_attention.__version__
    assert set(core_attention.__all__) | {"masks", "__version__"} <= set(dir(core_attention))
    assert all(getattr(core_attention, name) is not None for name in core_attention.__all__)
    assert copy.copy(core_attention.masks.Causal(1)) == Causal(1)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        core_attention.nothing  # noqa: B018


def test_names_do_not_depend_on_what_was_imported_first():
    code = (
        "import sys, core_attention\nassert 'torch' not in sys.modules\nimport core_attention.attention, core_attention.capture.capture\n"
        "from core_attention import attention, capture\nassert callable(attention) and callable(capture)\n"
        "import core_attention.attention as A\nassert A is attention\nfrom core_attention.attention import explain_shapes\n"
        "assert 'core_attention.backends.traced' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what outsiders met -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [None, Causal(), KeyLengths(torch.tensor([100]))], ids=str)
def test_a_bias_is_not_rounded_to_half_precision(dtype, mask):
    q, k, v = (random(1, 1, 256, 16, seed=s).to(dtype).requires_grad_() for s in range(3))
    bias = 300 + random(256, 256, seed=3)
    ours, definition = (attention(q, k, v, mask=mask, bias=bias, backend=backend) for backend in ("auto", "reference"))
    torch.testing.assert_close(ours, definition, atol=0.02, rtol=0.02)
    ours.float().sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_a_bias_beyond_half_precision_is_no_infinity():
    q = random(1, 1, 8, 16).half()
    bias = torch.zeros(8, 8)
    bias[:, 3] = 1e5
    out = attention(q, q, q, bias=bias, mask=Window(4, 4))
    assert out.isfinite().all()
    torch.testing.assert_close(out, attention(q, q, q, bias=bias, mask=Window(4, 4), backend="reference"))


@pytest.mark.parametrize("mask", [None, Window(1, 1)])
def test_a_learned_scale_is_refused(mask):
    q = random(1, 1, 6, 4)
    with pytest.raises(ValueError, match=r"attention\(scale \* q"):
        attention(q, q, q, mask=mask, scale=torch.tensor(0.3))


def test_nan_behind_joined_masks_of_keys_is_not_read():
    lengths, q = torch.tensor([4]), random(1, 1, 6, 4)
    behind = Dense(torch.arange(6)[None] >= 4)
    for mask in (
        KeyLengths(lengths) | KeyLengths(lengths - 1),
        ~behind,
        ~behind | KeyLengths(lengths),
        ~behind & Causal(),
    ):
        k = q.clone()
        k[:, :, 4:] = float("nan")
        k.requires_grad_()
        for backend in ("auto", "reference"):
            out = attention(q, k, k, mask=mask, backend=backend)
            assert out.isfinite().all()
            (gradient,) = torch.autograd.grad(out.sum(), k)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("others", [None, Causal(), KeyLengths(torch.tensor([0]))], ids=str)
def test_segments_without_a_key_give_zeros(others):
    segments = Segments(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long))
    mask = segments if others is None else segments & others
    empty = torch.zeros(1, 2, 0, 8)
    assert not attention(random(1, 2, 4, 8), empty, empty, mask=mask).any()


def test_shapes_of_masked_calls_on_meta():
    q = torch.empty(1, 1, 6, 4, device="meta")
    assert attention(q, q, q, mask=Window(1, 1) & Causal()).shape == q.shape


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_call_is_the_definition():
    def call(q, lengths):
        return attention(q, q, q, mask=KeyLengths(lengths) & Causal())

    traced = torch.jit.trace(call, (random(1, 1, 6, 4), torch.tensor([3])), check_trace=False)
    q, lengths = random(1, 1, 6, 4, seed=1), torch.tensor([2])
    torch.testing.assert_close(traced(q, lengths), call(q, lengths))
