"""Mechanisms with weights put into pretrained models: what was there stays, what is new is named, what cannot be done says why."""

import pytest
import torch
from torch import nn

from core_attention.capture.capture import capture
from core_attention.pretrained.convert import Layer, Replacement, convert_model, converted
from core_attention.registry import catalogue

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
# options with which each mechanism computes full attention
EVERYTHING = {"sparsifiner": {"attn_keep_rate": 1.0, "reduce_n_factor": 2}, "biformer": {"n_win": 2, "topk": 4}}
FEW = {
    "sparsifiner": {"attn_keep_rate": 0.25, "reduce_n_factor": 2, "coef_topk": 4},
    "biformer": {"n_win": 2, "topk": 1},
}


def vit(kind):
    torch.manual_seed(0)
    if kind == "timm":
        options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
        return timm.models.VisionTransformer(**options, qk_norm=True).eval()
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)).eval()
    return model


def logits(model, x):
    out = model(x)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("kind", ["timm", "transformers"])
@pytest.mark.parametrize("mechanism", EVERYTHING)
def test_everything_chosen_is_the_model_itself(mechanism, kind):
    model, x = vit(kind), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, state = logits(model, x), set(model.state_dict())
    assert convert_model(model, mechanism, **EVERYTHING[mechanism]) is model
    torch.testing.assert_close(logits(model, x), before, rtol=1e-4, atol=1e-5)
    assert state <= set(model.state_dict())
    few = convert_model(vit(kind), mechanism, **FEW[mechanism])
    assert not torch.allclose(logits(few, x), before, atol=1e-4)
    layers = converted(few)
    assert len(layers) == 2
    new = {f"{name}.{parameter}" for name, parameters in layers for parameter in parameters}
    assert new == set(few.state_dict()) - state
    logits(few, x).sum().backward()
    assert all(p.grad is not None for n, p in few.named_parameters() if "mechanism" not in n and "pooler" not in n)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_chosen_layers_only_and_capture(kind):
    model = vit(kind)
    names = [name for name, m in model.named_modules() if type(m).__name__ in ("Attention", "ViTAttention")]
    convert_model(model, "sparsifiner", layers=names[1], **FEW["sparsifiner"])
    assert [name for name, _ in converted(model)] == names[1:]
    with capture(model, kinds="blocks") as maps:
        logits(model, torch.randn(1, 3, 32, 32))
    (layer,) = maps
    assert layer.startswith(names[1])
    assert (maps.all(layer, "blocks")[0][:, :, 1:].sum(-1) == 5).all()
    with pytest.raises(ValueError, match=rf"no attention layer is called x; there are {names[0]}"):
        convert_model(vit(kind), "sparsifiner", layers="x")


def test_dtype_training_and_state():
    model = convert_model(vit("timm").bfloat16().train(), "biformer", **FEW["biformer"])
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.blocks[0].attn.mechanism.training
    again = convert_model(vit("timm").bfloat16(), "biformer", **FEW["biformer"])
    again.load_state_dict(model.state_dict())


def test_no_class_token_and_a_grid_that_is_not_square():
    torch.manual_seed(0)
    options = {"img_size": (16, 32), "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 4, "num_classes": 5}
    model = timm.models.VisionTransformer(**options, class_token=False, global_pool="avg").eval()
    x = torch.randn(1, 3, 16, 32)
    before = model(x)
    with pytest.raises(ValueError, match="no square grid"):
        convert_model(model, "biformer", prefix=0)
    convert_model(model, "biformer", prefix=0, grid=(4, 8), n_win=4, topk=16)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_done_says_why():
    with pytest.raises(ValueError, match=r"'moba' is a mechanism that cannot be put in.*go by name"):
        convert_model(vit("timm"), "moba")
    with pytest.raises(ValueError, match="has no attention layer that can be converted: it has no attention layer"):
        convert_model(nn.Linear(2, 2), "sparsifiner")
    swin = timm.create_model("resnet18", pretrained=False)
    with pytest.raises(ValueError, match="no attention layer that can be converted"):
        convert_model(swin, "biformer")
    config = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, num_key_value_heads=2))
    for mechanism in ("sparsifiner", "biformer"):
        with pytest.raises(ValueError, match="no vision transformer"):
            convert_model(llama, mechanism)
    with pytest.raises(ValueError, match="biformer has no option window; it has n_win, topk"):
        convert_model(vit("timm"), "biformer", window=7)
    with pytest.raises(TypeError, match="keep_rate"):
        convert_model(vit("timm"), "sparsifiner", keep_rate=0.5)
    with pytest.raises(ValueError, match="3 regions a side do not divide"):
        convert_model(vit("timm"), "biformer", n_win=3)
    assert not converted(llama)
    once = convert_model(vit("timm"), "biformer", **FEW["biformer"])
    with pytest.raises(ValueError, match="no attention layer that can be converted"):
        convert_model(once, "biformer", **FEW["biformer"])


def test_a_mechanism_may_replace_the_whole_layer(monkeypatch):
    class Zero(nn.Module):
        def __init__(self, layer: Layer):
            super().__init__()
            self.qkv, self.mechanism = layer.module.qkv, nn.Linear(1, 1)

        def forward(self, x, **options):
            return x * 0

    zero = catalogue.Entry("toy", lambda layer: Replacement(Zero(layer)), None)
    monkeypatch.setattr(catalogue, "find", lambda kind, name: zero)
    model = convert_model(vit("timm"), "zero", layers="blocks.0.attn")
    assert type(model.blocks[0].attn).__name__ == "Zero"
    assert converted(model) == [("blocks.0.attn", ("mechanism.weight", "mechanism.bias"))]
    model(torch.randn(1, 3, 32, 32))
