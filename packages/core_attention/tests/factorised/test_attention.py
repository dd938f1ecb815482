"""Attention with a factorised bias: tiles against the definition, and what the two are used for."""

import pytest
import torch

from core_attention.attention import attention
from core_attention.capture.capture import capture
from core_attention.factorised import tiles as factorised_tiles
from core_attention.factorised.attention import (
    Reach,
    Tables,
    factorised_attention,
    factorised_reference,
    factorised_weights,
    relative_bias,
)
from core_attention.factorised.flex import attend
from core_attention.masks import Factorised

# batch, kv heads, heads of a group, query rows, key rows, columns, dim, reach
CASES = {
    "window, last row full": (2, 2, 3, 5, 5, 4, 8, Reach(True, 1, True)),
    "window": (1, 1, 2, 6, 6, 3, 5, Reach(True, 2)),
    "continued": (2, 2, 1, 3, 6, 3, 4, Reach(True, 2, True)),
    "causal": (2, 2, 2, 4, 4, 3, 4, Reach(True)),
    "both ways": (1, 2, 2, 3, 3, 5, 4, Reach()),
    "own row": (2, 1, 2, 4, 4, 2, 4, Reach(True, 0)),
    "no content": (2, 1, 2, 4, 4, 2, 4, Reach(True, content=False)),
    "one column": (1, 1, 2, 5, 5, 1, 4, Reach(True, 1, True)),
    "one token": (1, 1, 1, 1, 1, 1, 1, Reach(True, 1, True)),
}


def problem(name: str, dtype=torch.float64, biased: bool = True):
    batch, kv_heads, group, rows, key_rows, columns, dim, reach = CASES[name]
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()  # noqa: E731
    q = draw(batch, kv_heads * group, rows, columns, dim)
    k, v = (draw(batch, kv_heads, key_rows, columns, dim) for _ in range(2))
    tables = Tables(
        draw(kv_heads, key_rows if reach.causal else 2 * key_rows - 1, dim),
        draw(kv_heads if biased else 1, 2 * columns - 1, dim),
        *(draw(kv_heads, dim) if biased else None for _ in range(3)),
    )
    return q, k, v, tables, reach


def gradients(y, q, k, v, tables):
    leaves = [q, k, v, *(t for t in tables if t is not None)]
    probe = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    found = torch.autograd.grad((y * probe).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def same(got, want, **bounds):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **bounds)


@pytest.mark.parametrize("tile", [2**19, 60, 7])
@pytest.mark.parametrize("name", CASES)
def test_tiles_are_the_definition(name, tile, monkeypatch):
    monkeypatch.setattr(factorised_tiles, "TILE", tile)
    q, k, v, tables, reach = problem(name)
    got, want = (f(q, k, v, tables, reach) for f in (factorised_attention, factorised_reference))
    torch.testing.assert_close(got, want)
    same(gradients(got, q, k, v, tables), gradients(want, q, k, v, tables))


def second_gradients(attend):
    q, k, v, tables, reach = problem(next(iter(CASES)))
    (first,) = torch.autograd.grad(attend(q, k, v, tables, reach).pow(3).sum(), q, create_graph=True)
    first.square().sum().backward()
    return q.grad, k.grad, v.grad


def test_gradients_of_gradients_are_those_of_the_reference_or_refused():
    """As docs/mechanisms/mvpa.md says: the definition has them, the tiles never answer without."""
    for gradient in second_gradients(factorised_reference):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    with pytest.raises(RuntimeError, match="no second derivative"):
        second_gradients(factorised_attention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes(dtype):
    q, k, v, tables, reach = problem("window, last row full", dtype)
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    wide_tables = Tables(*(t.detach().double().requires_grad_() for t in tables))
    got, want = factorised_attention(q, k, v, tables, reach), factorised_reference(*wide, wide_tables, reach)
    bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=bound, atol=bound)
    for a, b in zip(gradients(got, q, k, v, tables), gradients(want, *wide, wide_tables), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=4 * bound, atol=4 * bound)


def test_hidden_columns_and_tables_shared_by_heads():
    q, k, v, tables, reach = problem("window, last row full", biased=False)
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    got, want = (f(q, k, v, tables, reach, column_mask=mask) for f in (factorised_attention, factorised_reference))
    torch.testing.assert_close(got, want)
    same(gradients(got, q, k, v, tables), gradients(want, q, k, v, tables))
    changed = factorised_attention(
        q, k, torch.where(mask[:, None, None, :, None], v, 1e3), tables, reach, column_mask=mask
    )
    torch.testing.assert_close(changed, got)


def test_decomposed_relative_positions_of_image_encoders():
    """Both ways, unscaled tables shared by all heads: the same as `attention` with a `Factorised` bias."""
    q, k, v, tables, _ = problem("both ways", biased=False)
    scale = q.shape[-1] ** -0.5
    scaled = Tables(tables.rows / scale, tables.columns / scale)  # these models do not scale the bias
    rows, columns = (t.flatten(2, 3) for t in relative_bias(q, tables, key_rows=3, kv_heads=2))
    want = attention(*(t.flatten(2, 3) for t in (q, k, v)), bias=Factorised(rows, columns))
    torch.testing.assert_close(factorised_attention(q, k, v, scaled).flatten(2, 3), want)


def test_weights_of_some_queries_and_heads():
    q, k, _, tables, reach = problem("continued")
    everything = factorised_weights(q, k, tables, reach)
    torch.testing.assert_close(everything.sum(-1), torch.ones(2, 2, 9).double())
    future = torch.arange(18) // 3 > torch.arange(9)[:, None] // 3 + 3
    assert everything[..., future].eq(0).all()
    some = factorised_weights(q, k, tables, reach, queries=torch.tensor([7, 0]), heads=torch.tensor([1]))
    torch.testing.assert_close(some, everything[:, [1]][:, :, [7, 0]])


def test_capture_sees_the_weights():
    q, k, v, tables, reach = problem("window")
    with capture(None, rows=[3, -1], heads=1) as maps:
        factorised_attention(q, k, v, tables, reach)
    torch.testing.assert_close(maps["function"], factorised_weights(q, k, tables, reach)[:, [1]][:, :, [3, -1]])


def difference_of_flex(name: str) -> float:
    """The largest difference of FlexAttention's form from the definition."""
    q, k, v, tables, reach = problem(name, torch.float32)
    q, k, v = (t.detach() for t in (q, k, v))
    tables = Tables(*(None if t is None else t.detach() for t in tables))
    scale, kv_heads = q.shape[-1] ** -0.5, k.shape[1]
    by_row, by_column = relative_bias(q, tables, key_rows=k.shape[2], kv_heads=kv_heads)
    content_q = (q.unflatten(1, (kv_heads, -1)) + tables.u[:, None, None, None]).flatten(1, 2)
    window = -1 if reach.window is None else reach.window
    settings = {"causal": reach.causal, "window": window, "full_last": reach.full_last, "content": reach.content}
    got = attend(content_q, k, v, by_row * scale, by_column * scale, scale=scale, compiled=False, **settings)
    return float((got - factorised_reference(q, k, v, tables, reach)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["window, last row full", "no content", "both ways", "continued"])
def test_flex_form_is_the_definition(name, script):
    # torch traces the functions that FlexAttention is given, also without compiling: not through the shape checks
    assert script(f"print(json.dumps(cases.difference_of_flex({name!r})))") < 1e-5


def test_elementwise_dropout_keeps_the_mean_and_its_own_gradient():
    q, k, v, tables, reach = problem("window, last row full")
    call = lambda v: factorised_attention(q, k, v, tables, reach, dropout=0.4)  # noqa: E731
    torch.manual_seed(1)
    many = torch.stack([call(v.detach()) for _ in range(400)])
    spread = many.std(0) / 20
    assert ((many.mean(0) - factorised_attention(q, k, v, tables, reach)).abs() < 5 * spread + 1e-9).all()
    assert spread.min() > 0

    def seeded(*leaves):
        torch.manual_seed(3)
        return factorised_attention(*leaves[:3], Tables(*leaves[3:]), reach, dropout=0.4)

    small = problem("continued")
    leaves = (*small[:3], *small[3])
    reach = small[4]
    assert torch.autograd.gradcheck(seeded, leaves, fast_mode=True)


def test_not_a_number_stays_in_its_sample():
    q, k, v, tables, reach = problem("window, last row full")
    want = factorised_attention(q, k, v, tables, reach)
    spoiled = k.detach().clone()
    spoiled[0, 0, 2, 1] = float("nan")
    got = factorised_attention(q, spoiled, v, tables, reach)
    torch.testing.assert_close(got[1], want[1])
    torch.testing.assert_close(got[0, :, :2], want[0, :, :2])  # rows before it
    assert got[0, 0, 2].isnan().all()


def test_strides_do_not_matter():
    q, k, v, tables, reach = problem("window")
    other = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (q, k, v)]
    torch.testing.assert_close(
        factorised_attention(*other, tables, reach), factorised_attention(q, k, v, tables, reach)
    )


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    q, k, v, tables, reach = problem("window")
    wrong = [
        ((q[0], k, v, tables, reach), r"\(2, 6, 3, 5\)"),
        ((q, k, v[:, :, 1:], tables, reach), r"\(1, 1, 5, 3, 5\)"),
        ((q[..., :0, :], k, v, tables, reach), "nothing to attend to"),
        ((q, k[:, :, :4], v[:, :, :4], tables, reach), "do not fit"),
        (
            (q.repeat(1, 2, 1, 1, 1)[:, :3], k.repeat(1, 2, 1, 1, 1), v.repeat(1, 2, 1, 1, 1), tables, reach),
            "do not fit",
        ),
        ((q, k, v, Tables(tables.rows[:, 1:], tables.columns), reach), r"rows is \(1, 6, 5\); got \(1, 5, 5\)"),
        ((q, k, v, Tables(tables.rows, tables.columns[:, 1:]), reach), r"columns is \(1, 5, 5\); got \(1, 4, 5\)"),
        ((q, k, v, Tables(tables.rows, tables.columns, tables.u[0]), reach), r"u is .*\(1, 5\); got \(5,\)"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            factorised_attention(*arguments)
    with pytest.raises(ValueError, match=r"\(1, 3\); got \(3, 1\)"):
        factorised_attention(q, k, v, tables, reach, column_mask=torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="every column"):
        factorised_attention(q, k, v, tables, reach, column_mask=torch.zeros(1, 3, dtype=torch.bool))
    for reach_ in (Reach(False, 3), Reach(True, -1)):
        with pytest.raises(ValueError, match="needs causal"):
            factorised_attention(q, k, v, tables, reach_)
    with pytest.raises(ValueError, match="backend"):
        factorised_attention(q, k, v, tables, reach, backend="cuda")
    for backend in ("triton", "flex"):
        with pytest.raises(RuntimeError, match="CUDA"):
            factorised_attention(q, k, v, tables, reach, backend=backend)
