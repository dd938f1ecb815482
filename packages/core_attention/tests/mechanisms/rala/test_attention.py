import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.rala.attention import (
    GateLinearAttentionNoSilu,
    VanillaSelfAttention,
    rank_augmented_attention,
    rank_coefficients,
    rotary_table,
    rotate,
)

BOTH = pytest.mark.parametrize("kind", [GateLinearAttentionNoSilu, VanillaSelfAttention])


def qkv(tokens=35, heads=2, dim=8, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, heads, dim, tokens, dtype=dtype) for _ in range(3)]


def definition(q, k, v, sin, cos):
    """Steps 4–9 with every weight written out, (tokens, tokens)."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    n = q.shape[-1]
    a = n * torch.softmax(q.shape[2] ** -0.5 * q.mean(-1, keepdim=True).mT @ k, -1)
    k = a * k
    z = 1 / ((q.mT @ k).mean(-1) + 1e-6)
    weights = rotate(q, sin, cos).mT @ rotate(k, sin, cos) / n
    return (z[..., None] * weights @ v.mT).mT


def test_linear_form_is_the_definition():
    q, k, v = qkv()
    sin, cos = rotary_table(5, 7, 8)
    torch.testing.assert_close(
        rank_augmented_attention(q, k, v, sin, cos), definition(q, k, v, sin.double(), cos.double())
    )


def test_softmax_form_is_the_definition():
    torch.manual_seed(0)
    layer, x = VanillaSelfAttention(24, 3).double(), torch.randn(2, 24, 3, 5, dtype=torch.float64)
    q, k, v, gate = layer.qkvo(x).chunk(4, 1)
    sin, cos = (t.double() for t in rotary_table(3, 5, 8))
    heads = [t.flatten(2).unflatten(1, (3, 8)) for t in (q, k, v)]
    weights = torch.softmax(8**-0.5 * rotate(heads[0], sin, cos).mT @ rotate(heads[1], sin, cos), -1)
    y = (weights @ heads[2].mT).mT.flatten(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(layer(x), layer.proj((y + layer.lepe(v)) * gate))


def test_coefficients_sum_to_the_number_of_tokens_and_are_1_for_equal_keys():
    q, k, _ = (F.elu(t) + 1 for t in qkv())
    torch.testing.assert_close(rank_coefficients(q, k, 0.3).sum(-1), torch.full((2, 2, 1), 35.0, dtype=torch.float64))
    same = k[..., :1].expand_as(k)
    torch.testing.assert_close(rank_coefficients(q, same, 0.3), torch.ones(2, 2, 1, 35, dtype=torch.float64))


def test_without_phase_constant_values_stay():
    q, k, v = qkv()
    v = v[..., :1].expand_as(v)
    torch.testing.assert_close(rank_augmented_attention(q, k, v), v.contiguous(), rtol=1e-5, atol=1e-6)


def test_equivariant_to_the_order_of_tokens_without_phase():
    q, k, v = qkv()
    order = torch.randperm(35)
    torch.testing.assert_close(
        rank_augmented_attention(q[..., order], k[..., order], v[..., order]),
        rank_augmented_attention(q, k, v)[..., order],
    )


def test_buffer_on_request():
    q, k, v = qkv()
    _, buffer = rank_augmented_attention(q, k, v, return_buffer=True)
    assert torch.linalg.matrix_rank(buffer).eq(8).all()


def test_phase_table_has_both_ends():
    sin, _ = rotary_table(2, 3, 8)
    theta = torch.tensor([1.0, 1.0, 1e-4, 1e-4])
    torch.testing.assert_close(sin[5], torch.cat([theta, 2 * theta]).sin())
    assert rotary_table(2, 3, 8)[0] is sin, "cached per grid"
    torch.testing.assert_close(rotary_table(2, 2, 4)[1][3], torch.ones(4).cos())
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_table(2, 2, 6)


@BOTH
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_shape_is_kept_and_layout_does_not_matter(kind, size):
    torch.manual_seed(0)
    layer, x = kind(16, 2), torch.randn(2, 16, *size)
    y = layer(x)
    assert y.shape == x.shape
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), y)
    torch.testing.assert_close(layer(x.transpose(2, 3).contiguous().transpose(2, 3)), y)


@BOTH
def test_a_table_made_under_inference_mode_serves_training(kind):
    layer, x = kind(8, 1), torch.randn(1, 8, 11, 13)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_at_large_inputs(kind, dtype):
    torch.manual_seed(0)
    layer = kind(16, 1)
    tokens = 128 if kind is GateLinearAttentionNoSilu else 32
    x = 30 * torch.randn(1, 16, tokens, tokens)
    with torch.autocast("cpu", dtype=dtype):
        assert layer(x).isfinite().all()
    assert layer.to(dtype)(x.to(dtype)).isfinite().all()


@BOTH
@pytest.mark.parametrize(
    ("dim", "heads", "shape"), [(6, 2, None), (0, 1, None), (8, 0, None), (8, 1, (1, 4, 2, 2)), (8, 1, (1, 8, 0, 2))]
)
def test_unfitting_sizes_are_refused(kind, dim, heads, shape):
    with pytest.raises(ValueError, match=r"dim|map"):
        kind(dim, heads)(torch.zeros(shape or (1, dim, 2, 2)))


@BOTH
def test_captured_weights_are_those_that_mix_the_values(kind):
    torch.manual_seed(0)
    layer, x = kind(8, 2).double(), torch.randn(1, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        plain = layer(x)
        with capture(layer) as maps:
            assert torch.equal(layer(x), plain)
    _, _, v, gate = layer.qkvo(x).chunk(4, 1)
    weights = next(iter(maps.values()))
    y = (weights @ v.flatten(2).unflatten(1, (2, 4)).mT).mT.flatten(1, 2).unflatten(2, (3, 4))
    torch.testing.assert_close(layer.proj((y + layer.lepe(v)) * gate), plain)


def test_equal_keys_make_it_plain_linear_attention():
    """ELU + 1, with the phase in the numerator alone."""
    q, k, v = qkv()
    k = k[..., :1].expand_as(k)
    sin, cos = (t.double() for t in rotary_table(5, 7, 8))
    phi_q, phi_k = F.elu(q) + 1, F.elu(k) + 1
    weights = rotate(phi_q, sin, cos).mT @ rotate(phi_k, sin, cos) / (phi_q.mT @ phi_k).sum(-1, keepdim=True)
    torch.testing.assert_close(rank_augmented_attention(q, k, v, sin, cos), (weights @ v.mT).mT, rtol=1e-5, atol=1e-6)


def test_what_is_kept_grows_with_the_tokens():
    layer, totals = GateLinearAttentionNoSilu(8, 1), []
    for side in (20, 40):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            layer(torch.randn(1, 8, side, side)).sum().backward()
        assert max(sizes) <= 4 * 8 * side**2
        totals.append(sum(sizes))
    assert totals[1] / totals[0] == pytest.approx(4, rel=0.05)


@BOTH
@pytest.mark.usefixtures("unchecked")
def test_wrong_ranks(kind):
    for shape in ((8, 2, 2), (1, 8, 4), (1, 8, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"map of 8 channels.*got shape"):
            kind(8, 1)(torch.zeros(shape))


@BOTH
def test_not_a_number_stays_in_its_sample(kind):
    torch.manual_seed(0)
    layer, x = kind(8, 2), torch.randn(2, 8, 3, 4)
    want, spoilt = layer(x), x.clone()
    spoilt[0, 0, 0, 0] = torch.nan
    y = layer(spoilt)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], want[1])


def test_compiles_in_one_graph():
    """Without the tests' own checks of signatures, which Dynamo cannot trace."""
    code = """
import torch
from core_attention.mechanisms.rala.attention import GateLinearAttentionNoSilu, VanillaSelfAttention
for kind in (GateLinearAttentionNoSilu, VanillaSelfAttention):
    layer, x = kind(8, 2), torch.randn(2, 8, 3, 4)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    weights = list(layer.parameters())
    for a, b in zip(*(torch.autograd.grad(f(x).square().sum(), weights) for f in (layer, compiled))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "lru_cache" not in done.stderr
