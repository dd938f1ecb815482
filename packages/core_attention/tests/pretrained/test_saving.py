"""A converted model that is saved reloads converted: by ``from_pretrained``, or from a state dict and what `conversions` says."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core_attention.pretrained.conversions import conversions
from core_attention.pretrained.convert import convert_again, convert_model, converted
from core_attention.pretrained.transformers import register_with_transformers

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCHES = {"image_size": 32, "patch_size": 8}


def vit():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**options)


def llama(head="ForCausalLM"):
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, **SIZES)
    return getattr(transformers, f"Llama{head}")(config)


def image_model():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **PATCHES))


def shaken(model):
    """New and old weights moved away from what a fresh model has."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def output(model):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(3, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    found = model(images if not hasattr(model, "config") or hasattr(model.config, "patch_size") else ids)
    return found if isinstance(found, torch.Tensor) else found[0]


BY_PRETRAINED = {
    "dma in a language model": (llama, "dma", {"window": 4}),
    "moh by norm": (llama, "moh", {"shared": 2, "routed": 1}),
    "moh, learned": (llama, "moh", {"shared": 2, "routed": 1, "router": "learned"}),
    "sparsifiner": (image_model, "sparsifiner", {"attn_keep_rate": 0.25, "reduce_n_factor": 2}),
    "biformer on a grid": (image_model, "biformer", {"n_win": 2, "topk": 1, "grid": (4, 4)}),
}


@pytest.mark.parametrize("name", BY_PRETRAINED)
def test_from_pretrained_loads_it_converted(name, tmp_path):
    make, mechanism, options = BY_PRETRAINED[name]
    torch.manual_seed(0)
    model = shaken(convert_model(make(), mechanism, **options))
    model.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert converted(again) == converted(model)
    assert conversions(again) == conversions(model)
    torch.testing.assert_close(output(again.eval()), output(model))
    again.save_pretrained(tmp_path / "again")
    third = type(model).from_pretrained(tmp_path / "again")
    torch.testing.assert_close(output(third.eval()), output(model))


def test_some_layers_two_mechanisms_and_another_head(tmp_path):
    torch.manual_seed(0)
    model = convert_model(llama(), "dma", layers="model.layers.0.*", window=4)
    shaken(convert_model(model, "moh", layers="model.layers.1.*", shared=2, routed=1))
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert [(c["mechanism"], c["layers"]) for c in conversions(again)] == [
        ("dma", ["model.layers.0.self_attn"]),
        ("moh", ["model.layers.1.self_attn"]),
    ]
    torch.testing.assert_close(output(again), output(model))
    base = transformers.AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output(base), output(model.model))
    other = transformers.LlamaForSequenceClassification.from_pretrained(tmp_path)
    assert len(converted(other)) == 2
    # a base model that is saved is what a head on it loads
    base.save_pretrained(tmp_path / "base")
    with_head = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base").eval()
    torch.testing.assert_close(output(with_head.model), output(base))


def test_in_bfloat16(tmp_path):
    torch.manual_seed(0)
    model = shaken(convert_model(llama().bfloat16(), "dma", window=4))
    model.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_in_a_fresh_process(tmp_path):
    torch.manual_seed(0)
    model = shaken(convert_model(llama(), "dma", window=4))
    model.save_pretrained(tmp_path)
    torch.save(output(model).detach(), tmp_path / "expected.pt")
    code = (
        "import torch, transformers\nfrom core_attention import register_with_transformers\nregister_with_transformers()\n"
        f"model = transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()\n"
        "ids = torch.randint(3, 50, (2, 12), generator=torch.Generator().manual_seed(0))\n"
        f"torch.testing.assert_close(model(ids)[0], torch.load({str(tmp_path / 'expected.pt')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_models_that_were_not_converted_stay_as_they_are(tmp_path):
    register_with_transformers("core_attention")
    model = llama().eval()
    model.save_pretrained(tmp_path)
    assert "core_attention" not in (tmp_path / "config.json").read_text()
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert not converted(again)
    torch.testing.assert_close(output(again), output(model))


def test_the_config_that_a_model_was_made_from_stays_as_it_is():
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, **SIZES)
    before = config.to_dict()
    model = convert_model(transformers.LlamaForCausalLM(config), "dma", window=4)
    assert config.to_dict() == before
    assert model.config is not config
    assert model.model.config is model.config
    assert not converted(transformers.LlamaForCausalLM(config))
    other = transformers.LlamaForCausalLM(model.config)
    assert len(converted(other)) == 2
    assert other.model.config is other.config is model.config


BY_STATE = {
    "sparsifiner": {"attn_keep_rate": 0.25, "reduce_n_factor": 2},
    "biformer": {"n_win": 2, "topk": 1, "grid": (4, 4)},
    "moh": {"shared": 2, "routed": 1},
    "dma": {"window": 4},
}


@pytest.mark.parametrize("mechanism", BY_STATE)
def test_a_state_dict_and_what_was_converted(mechanism, tmp_path):
    torch.manual_seed(0)
    model = convert_model(vit(), mechanism, layers="blocks.1.attn", **BY_STATE[mechanism])
    shaken(model)
    (tmp_path / "conversions.json").write_text(json.dumps(conversions(model)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    kept = json.loads((tmp_path / "conversions.json").read_text())
    again = convert_again(vit(), kept).eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))  # strictly
    assert converted(again) == converted(model)
    torch.testing.assert_close(output(again), output(model))


def test_what_cannot_be_saved_is_refused_before_anything_is_converted():
    model = vit()
    with pytest.raises(ValueError, match="dma: option window is a Tensor, which cannot be saved with the model"):
        convert_model(model, "dma", window=torch.tensor(4))
    assert not converted(model)
    assert conversions(model) == []
    with pytest.raises(ValueError, match="layers, options is missing"):
        convert_again(model, [{"mechanism": "dma"}])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_route_by_their_own_inputs(copied):
    torch.manual_seed(0)
    model = shaken(convert_model(llama(), "moh", shared=2, routed=1, router="learned"))
    output(model).sum().backward()
    twin = copied(model)
    torch.testing.assert_close(output(twin), output(model))
    assert conversions(twin) == conversions(model)
    with torch.no_grad():
        nn.init.zeros_(model.model.layers[0].self_attn.mechanism.router.wg.weight)
        assert not torch.allclose(output(twin), output(model))
