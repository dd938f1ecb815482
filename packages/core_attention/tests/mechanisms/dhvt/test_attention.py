import pytest
import torch
import torch.nn.functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.dhvt.attention import DAFF, HeadInteractedAttention, definition


def tokens(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention(dim=12, num_heads=3, **options):
    torch.manual_seed(0)
    return HeadInteractedAttention(dim, num_heads, **options).double().eval()


def feed_forward(dim=12, **options):
    torch.manual_seed(0)
    layer = DAFF(dim, **options).double()
    layer.train()(tokens(4, 10, dim, seed=3))  # running statistics that are not 0 and 1
    return layer.eval()


@pytest.mark.parametrize("make", [attention, lambda: attention(scale=0.7), feed_forward])
@pytest.mark.parametrize("n", [2, 5, 17])
def test_layers_are_their_definition(make, n):
    layer, x = make(), tokens(2, n, 12).requires_grad_()
    y, want = layer(x), definition(layer, x)
    torch.testing.assert_close(y, want)
    given = [x, *layer.parameters()]
    gradients = (torch.autograd.grad(t.pow(2).sum(), given) for t in (y, want))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_training_updates_three_norms_like_batch_norm_over_maps():
    layer, x = DAFF(8).double().train(), tokens(3, 10, 8)
    layer(x)
    want = DAFF(8).double().train()
    want.load_state_dict({k: torch.zeros_like(v) if k.endswith("mean") else v for k, v in layer.state_dict().items()})
    for name, norm in want.named_children():
        if name.startswith("bn"):
            norm.reset_running_stats()
    definition(want, x)
    for (name, ours), theirs in zip(layer.named_buffers(), want.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_without_head_tokens_it_is_plain_attention():
    layer, x = attention(use_head_tokens=False), tokens(2, 7, 12)
    q, k, v = layer.qkv(x).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(layer(x), layer.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def test_zero_head_tokens_still_take_part():
    layer, x = attention(), tokens(2, 7, 12)
    for p in (layer.ht_proj.weight, layer.ht_proj.bias, layer.ht_norm.bias, layer.pos_embed):
        torch.nn.init.zeros_(p)
    assert (layer.head_tokens(x) == 0).all()
    with capture(layer, rows=[0]) as maps:
        y = layer(x)
    assert maps["HeadInteractedAttention"].shape == (2, 3, 1, 10)
    plain = attention(use_head_tokens=False)
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(y, plain(x))


def test_patches_permute_and_the_class_token_does_not_see_their_order():
    layer, x = attention(), tokens(2, 7, 12)
    order = torch.tensor([0, 3, 6, 1, 2, 5, 4])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_class_token_of_the_feed_forward():
    layer, x = feed_forward(), tokens(2, 10, 12)
    torch.nn.init.zeros_(layer.excitation.weight)
    torch.nn.init.ones_(layer.excitation.bias)
    torch.testing.assert_close(layer(x)[:, 0], x[:, 0])
    changed = x.clone()
    changed[:, 0] += 1
    torch.testing.assert_close(layer(changed)[:, 1:], layer(x)[:, 1:])


def test_grids_that_are_not_square():
    layer, x = feed_forward(), tokens(2, 13, 12)
    y = layer(x, (3, 4))
    turned = x.clone()
    turned[:, 1:] = x[:, 1:].view(2, 3, 4, 12).transpose(1, 2).reshape(2, 12, 12)
    layer.conv2.weight.data = layer.conv2.weight.data.mT.contiguous()
    torch.testing.assert_close(
        layer(turned, (4, 3))[:, 1:].view(2, 4, 3, 12), y[:, 1:].view(2, 3, 4, 12).transpose(1, 2)
    )


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    with pytest.raises(ValueError, match=r"3·3 patches, got \(2, 13, 12\): not a square grid, pass grid_size"):
        feed_forward()(tokens(2, 13, 12))
    with pytest.raises(ValueError, match=r"3·5 patches, got \(2, 13, 12\)$"):
        feed_forward()(tokens(2, 13, 12), (3, 5))
    for layer, least in ((attention(), 1), (feed_forward(), 2)):
        for bad in (tokens(2, 5, 8), tokens(5, 12), tokens(2, least - 1, 12)):
            with pytest.raises(ValueError, match=rf"at least {least}, 12\), got"):
                layer(bad)
    with pytest.raises(ValueError, match="10 channels, 3 heads"):
        HeadInteractedAttention(10, 3)
    with pytest.raises(ValueError, match="odd kernel"):
        DAFF(8, kernel_size=2)


def test_one_token_and_one_channel():
    assert HeadInteractedAttention(1, 1)(tokens(2, 1, 1, dtype=torch.float32)).shape == (2, 1, 1)
    assert DAFF(1).eval()(tokens(2, 2, 1, dtype=torch.float32)).shape == (2, 2, 1)


@pytest.mark.parametrize("make", [attention, feed_forward])
@pytest.mark.usefixtures("unchecked")
def test_compiles_in_one_graph_and_autocasts(make):
    layer, x = make().float(), tokens(2, 17, 12, dtype=torch.float32)
    torch._dynamo.reset()
    want = layer(x)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), want, rtol=2e-2, atol=2e-2, check_dtype=False)


def test_dropout_only_in_training():
    layer, x = attention(attn_drop=0.5, proj_drop=0.5), tokens(2, 7, 12)
    assert torch.equal(layer(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


@pytest.mark.parametrize("make", [attention, feed_forward])
def test_samples_do_not_mix_and_strides_do_not_matter(make):
    layer, x = make(), tokens(2, 10, 12)
    want = layer(x)
    torch.testing.assert_close(layer(x[1:]), want[1:])
    torch.testing.assert_close(layer(x.mT.contiguous().mT), want)
    spoilt = x.clone()
    spoilt[0, 3, 0] = torch.nan
    y = layer(spoilt)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], want[1])
