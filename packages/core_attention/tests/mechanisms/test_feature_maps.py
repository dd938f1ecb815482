"""What every feature-map attention does alike: shapes, bad input, precisions, layouts, compilation; each by the same tests."""

import copy
import re
from functools import partial

import pytest
import torch

from core_attention.mechanisms.csa_action.class_semantics import CSABlock
from core_attention.mechanisms.dynsubspace.attention_layer import AttentionLayer
from core_attention.mechanisms.featenhancer.scale_aware import ScaleAwareFeatureAggregation
from core_attention.mechanisms.msdual.dual import PAMCAMLayer
from core_attention.mechanisms.sentence_attention.attention import SentenceAttention
from core_attention.registry.catalogue import declared

MECHANISMS = {name: entry.load() for name, entry in declared("inserts").items()}
C = 32


def modules():
    torch.manual_seed(0)
    made = {name: make(C) for name, make in MECHANISMS.items()}
    made |= {
        "ela separate": MECHANISMS["ela"](C, variant="L", shared=False),
        "ulsam, paper": MECHANISMS["ulsam"](C, norm=False),
    }
    for module in made.values():
        for name, p in module.named_parameters():
            if name.endswith("gamma"):
                torch.nn.init.constant_(p, 0.5)
    return made


each = pytest.mark.parametrize("name", list(modules()))


def module_and_map(name, size=(2, C, 6, 7), **options):
    return modules()[name].eval(), torch.randn(size, generator=torch.Generator().manual_seed(1), **options)


@each
@pytest.mark.parametrize("size", [(2, C, 1, 1), (1, C, 1, 9), (1, C, 9, 1), (0, C, 4, 4), (3, C, 5, 8)])
def test_keeps_shape_and_stays_finite(name, size):
    module, x = module_and_map(name, size)
    y = module(x.requires_grad_())
    assert y.shape == x.shape
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()


@each
@pytest.mark.usefixtures("unchecked")
def test_wrong_maps(name):
    module, x = module_and_map(name)
    for bad in (x[0], x[None], x[:, : C - 1], x[:, :, :0], x[..., :0]):
        with pytest.raises(ValueError, match=re.escape(f"(batch, {C}, height, width), got {tuple(bad.shape)}")):
            module(bad)
    with pytest.raises(ValueError, match="float"):
        module(torch.ones(2, C, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_no_channel_is_refused_and_one_works_where_nothing_must_divide(name):
    with pytest.raises(ValueError, match="channels"):
        MECHANISMS[name](0)
    options = {"ela": {"strict": False}, "ulsam": {"num_splits": 1}}.get(name, {})
    assert MECHANISMS[name](1, **options).eval()(torch.randn(2, 1, 3, 4)).shape == (2, 1, 3, 4)
    with pytest.raises(TypeError, match="unknown_option"):
        MECHANISMS[name](C, unknown_option=1)


@each
def test_nan_stays_in_its_sample(name):
    module, x = module_and_map(name)
    want = module(x)
    spoilt = x.clone()
    spoilt[0, 0, 0, 0] = torch.nan
    y = module(spoilt)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], want[1])


@each
def test_layouts(name):
    module, x = module_and_map(name)
    want = module(x)
    last = module(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, want, rtol=1e-5, atol=1e-5, check_stride=False)
    if name not in ("pam", "cam"):  # products of matrices, which give their own layout
        assert last.is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(2, 2 * C, 6, 14)
    torch.testing.assert_close(
        module(wide[:, ::2, :, ::2]), module(wide[:, ::2, :, ::2].contiguous()), rtol=1e-5, atol=1e-5
    )


@each
def test_autocast_and_bfloat16_stay_close(name):
    module, x = module_and_map(name)
    want = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    torch.testing.assert_close(y.float(), want, rtol=2e-2, atol=2e-2)
    half = copy.deepcopy(module).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=5e-2, atol=5e-2)


@each
def test_eval_is_deterministic_and_independent_of_the_batch(name):
    module, x = module_and_map(name)
    y = module(x)
    assert torch.equal(module(x), y)
    torch.testing.assert_close(module(x[1:]), y[1:])


def compiled(module, *given, backend):
    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True)(*given)


def everything():
    torch.manual_seed(0)
    given = {name: (module, (torch.randn(2, C, 6, 7),)) for name, module in modules().items()}
    given["pam cam layer"] = PAMCAMLayer(16), (torch.randn(2, 32, 6, 7),)
    given["attention layer"] = AttentionLayer(C), (torch.randn(2, C, 6, 7),)
    given["sentence"] = SentenceAttention(5, C), (torch.randn(2, C, 6, 7), torch.randn(2, 5))
    given["scale aware"] = ScaleAwareFeatureAggregation(), (torch.randn(2, 24, 16, 20), torch.randn(2, 24, 3, 4))
    given["class semantics"] = CSABlock(5, C), (torch.randn(2, 5, 9), torch.randn(2, C, 9))
    return given


OTHERS = [name for name in everything() if name not in modules()]


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_keep_samples_apart_and_take_any_layout(name):
    module, given = everything()[name]
    module.eval()
    want = module(*given)
    torch.testing.assert_close(module(*(t[1:] for t in given)), want[1:], rtol=1e-4, atol=1e-5)
    strided = [t.mT.contiguous().mT for t in given]
    torch.testing.assert_close(module(*strided), want, rtol=1e-4, atol=1e-5, check_stride=False)
    for place, t in enumerate(given):
        spoilt = [u.clone() for u in given]
        spoilt[place][(0,) * t.ndim] = torch.nan
        y = module(*spoilt)
        assert y[0].isnan().any()
        torch.testing.assert_close(y[1], want[1], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(*given).float(), want, rtol=5e-2, atol=5e-2)


def test_other_layers_refuse_no_channel():
    for make in (AttentionLayer, PAMCAMLayer, partial(CSABlock, 5), partial(CSABlock, feat_channels=5)):
        with pytest.raises(ValueError, match="of at least 1, got 0"):
            make(0)
    for sizes in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="of at least 1, got 0"):
            SentenceAttention(*sizes)
    with pytest.raises(ValueError, match="of at least 1, got 0"):
        ScaleAwareFeatureAggregation(0)


@pytest.mark.parametrize("name", list(everything()))
@pytest.mark.usefixtures("unchecked")
def test_compiles_into_one_graph_forward_and_backward(name):
    module, given = everything()[name]
    given = [t.requires_grad_() for t in given]
    other = copy.deepcopy(module)
    want, y = other(*given), compiled(module, *given, backend="aot_eager")
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    probe = torch.randn_like(y)
    ours = torch.autograd.grad(y, [*given, *module.parameters()], probe, allow_unused=True)
    theirs = torch.autograd.grad(want, [*given, *other.parameters()], probe, allow_unused=True)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("balanced", "coordinate", "ela", "se", "eca", "cbam"),
        pytest.param(
            "ulsam", marks=pytest.mark.xfail(strict=True, reason="Inductor writes the input of max pooling to a buffer")
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_inductor_fuses_gate_and_product_into_one_loop(name):
    """The product with the map and all that makes its gate is one kernel: no buffer of the map's size but the output."""
    from torch._inductor.utils import run_and_get_code

    module, x = module_and_map(name, (2, C, 24, 28))
    torch._dynamo.reset()
    with torch.no_grad():
        y, (code,) = run_and_get_code(torch.compile(module, fullgraph=True), x)
        torch.testing.assert_close(y, module(x), rtol=1e-4, atol=1e-5)
    full = code.count(f"empty_strided_cpu((2, {C}, 24, 28)")
    assert full == 1, code
