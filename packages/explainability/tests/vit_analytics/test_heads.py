import pytest
import torch

from explainability.vit_analytics.distance import hop_strength, offset_profile, ring_size
from explainability.vit_analytics.importance import (
    MEASURES,
    cumulative_pruning,
    gated_logits,
    gradient_proxy,
    head_importance,
    jsd,
)

from ..backbones import tiny_vit

IMAGE = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2])


def a_model(**options):
    return tiny_vit(num_classes=4, **options).double()


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "init_values": 0.1}])
def test_cached_importance_is_naive_pruning(options):
    model = a_model(**options)
    importance = head_importance(model, IMAGE, LABEL, heads_at_once=2)
    assert torch.allclose(importance.logits, model(IMAGE), atol=1e-9)
    p = model(IMAGE).softmax(-1)
    for layer in range(3):
        for head in range(3):
            gates = torch.ones(3, 3, dtype=torch.float64)
            gates[layer, head] = 0
            q = gated_logits(model, IMAGE, gates).softmax(-1)
            dropped = (p - q).gather(1, LABEL[:, None])[:, 0]
            assert torch.allclose(importance.prob_drop[:, layer, head], dropped, atol=1e-9)


def test_all_gates_open_is_the_model():
    model = a_model()
    assert torch.allclose(gated_logits(model, IMAGE, torch.ones(3, 3).double()), model(IMAGE), atol=1e-12)
    with pytest.raises(ValueError, match=r"needs gates \(3, 3\)"):
        gated_logits(model, IMAGE, torch.ones(3, 2))


def test_a_head_that_is_not_projected_has_no_importance():
    model = a_model()
    model.blocks[1].attn.proj.weight.data[:, 8:16] = 0
    importance = head_importance(model, IMAGE)
    for name in MEASURES:
        assert getattr(importance, name)[:, 1, 1].abs().max() < 1e-7, name


def test_jsd():
    torch.manual_seed(0)
    p, q = torch.randn(2, 5, 7).double().log_softmax(-1).unbind(0)
    assert torch.allclose(jsd(p, q), jsd(q, p))
    assert jsd(p, p).abs().max() < 1e-15
    assert (jsd(p, q) > 1e-3).all()
    apart = torch.tensor([[0.0, -1e4]]).double().log_softmax(-1)
    assert jsd(apart, apart.flip(-1)).item() == pytest.approx(1)


def test_proxy_and_pruning_have_their_shapes():
    model = a_model()
    proxy = gradient_proxy(model, IMAGE)
    assert proxy.shape == (3, 3, 3)
    assert len(cumulative_pruning(model, IMAGE, LABEL, proxy.mean(0))) == 10


def test_rings():
    sizes = ring_size(5, 5)
    assert (sizes.sum(1) == 25).all()
    assert sizes[0].tolist() == [1, 3, 5, 7, 9]
    assert (ring_size(2, 4).sum(1) == 8).all()


def test_identity_and_uniform_attention():
    n = 20
    identity = hop_strength(torch.eye(n).double(), (4, 5))
    assert identity.mass[0] == 1
    assert identity.distance == identity.entropy == 0
    uniform = hop_strength(torch.full((n, n), 1 / n).double(), (4, 5))
    assert torch.allclose(uniform.strength, torch.full((5,), 1 / n).double())
    assert uniform.entropy.item() == pytest.approx(1)
    assert torch.allclose(uniform.mass, ring_size(4, 5).double().mean(0) / n)


def test_flipping_the_grid():
    torch.manual_seed(0)
    weights = torch.rand(2, 12, 12).double().softmax(-1)
    flipped = weights.view(2, 3, 4, 3, 4).flip(2, 4).reshape(2, 12, 12)
    a, b = hop_strength(weights, (3, 4)), hop_strength(flipped, (3, 4))
    assert torch.allclose(a.mass, b.mass)
    assert torch.allclose(a.mass.sum(-1), torch.ones(2).double())
    assert torch.allclose(offset_profile(weights, (3, 4)), offset_profile(flipped, (3, 4)).flip(-1))


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        head_importance(a_model().train(), IMAGE)
