import pytest
import timm
import torch

from core_attention.capture.intervening import ablate, gate, head_layers, patch


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5).eval()


IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_gates_of_one_change_no_bit_and_a_gate_of_zero_is_an_ablation(vit):
    layers = head_layers(vit)
    assert [layer.name for layer in layers] == [f"blocks.{i}.attn" for i in range(3)]
    plain = vit(IMAGE)
    gates = torch.ones(3, 3)
    with gate(vit, gates):
        assert torch.equal(vit(IMAGE), plain)
    gates[1, 2] = 0
    with gate(vit, gates):
        gated = vit(IMAGE)
    with ablate(vit, [("blocks.1.attn", 2)]):
        assert torch.equal(vit(IMAGE), gated)
    assert not torch.allclose(gated, plain)
    # the definition: the columns of the head are 0 in the projection
    width = vit.embed_dim // 3
    vit.blocks[1].attn.proj.weight[:, 2 * width :] = 0
    assert torch.allclose(vit(IMAGE), gated, atol=1e-5)
    with ablate(vit, [(1, 2)]):
        assert torch.allclose(vit(IMAGE), gated, atol=1e-6)
    assert hooks(vit) == 0


def test_gradients_reach_gates(vit):
    gates = torch.ones(3, 3, requires_grad=True)
    with gate(vit, gates):
        vit(IMAGE).sum().backward()
    assert gates.grad.abs().gt(0).all()


@torch.no_grad()
def test_patching(vit):
    plain = vit(IMAGE)
    with patch(vit, {"blocks.2.mlp": lambda output: output * 0}):
        assert not torch.equal(vit(IMAGE), plain)
    with patch(vit, {"head": torch.zeros(2, 5)}):
        assert torch.equal(vit(IMAGE), torch.zeros(2, 5))
    with (
        pytest.raises(ValueError, match=r"head gives \(2, 5\), patched with \(1, 5\)"),
        patch(vit, {"head": torch.zeros(1, 5)}),
    ):
        vit(IMAGE)
    assert hooks(vit) == 0
    assert torch.equal(vit(IMAGE), plain)


def test_what_is_refused_leaves_nothing(vit):
    cases = [
        (lambda: gate(vit, torch.ones(2, 3)), "needs gates of 3 layers"),
        (lambda: ablate(vit, [(3, 0)]), "layer 3 of 3"),
        (lambda: ablate(vit, [(0, 3)]), "head 3 of layer"),
        (lambda: ablate(vit, [("blocks.9.attn", 0)]), "near it: blocks"),
        (lambda: patch(vit, {"blocks.2.mpl": torch.zeros(1)}), "near it: blocks.2.mlp"),
        (lambda: gate(torch.nn.Linear(2, 2), torch.ones(1, 1)), "has heads that can be gated"),
    ]
    for case, match in cases:
        with pytest.raises(ValueError, match=match), case():
            pass
    with pytest.raises(KeyError), gate(vit, torch.zeros(3, 3)):
        raise KeyError
    assert hooks(vit) == 0


@torch.no_grad()
def test_transformers_models():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16, image_size=16, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    x = torch.randn(1, 3, 16, 16)
    layers = head_layers(model)
    assert [layer.heads for layer in layers] == [4, 4]
    plain = model(x).logits
    with ablate(model, [(0, 1)]):
        assert not torch.allclose(model(x).logits, plain)
    with gate(model, torch.ones(2, 4)):
        assert torch.equal(model(x).logits, plain)
