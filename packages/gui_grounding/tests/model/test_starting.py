"""A plain Qwen gets the five tokens and a head; what it knew stays."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from core_runtime.errors import UserError
from gui_grounding.model.backbone import build_backbone
from gui_grounding.model.folder import load_model, save_model
from gui_grounding.model.starting import start_from
from gui_grounding.model.tiny import TinySizes, tiny_backbone
from gui_grounding.model.tokens import ADDED_TOKENS, make_tokenizer

SIZES = TinySizes(width=32, vision_width=32, layers=1, vision_layers=1)


@pytest.fixture(params=[("qwen2_5_vl", False, 0), ("qwen2_vl", True, 0), ("qwen2_5_vl", False, 64)], ids=str)
def plain(request, tmp_path):
    """A folder as Qwen publishes it, and its backbone: without the five tokens; `spare` rows of embeddings are unused, as in the 7B."""
    family, tied, spare = request.param
    whole = make_tokenizer(["click the red button"])
    described = json.loads(whole.tokenizer.to_str())
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in ADDED_TOKENS]
    folder = tmp_path / "Qwen"
    folder.mkdir()
    Tokenizer.from_str(json.dumps(described)).save(str(folder / "tokenizer.json"))
    config = tiny_backbone(whole, SIZES, family=family, tied=tied)
    config["text_config"]["vocab_size"] = whole.size - len(ADDED_TOKENS) + spare
    torch.manual_seed(0)
    backbone = build_backbone(config)
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder, backbone


def test_a_plain_qwen_gets_tokens_and_a_head(plain, tmp_path):
    folder, backbone = plain
    loaded = start_from(str(folder), suppress=True, seed=0)
    old = backbone.get_input_embeddings().weight
    new = loaded.network.backbone.get_input_embeddings().weight
    added = [loaded.tokens.id(token) for token in ADDED_TOKENS]
    assert added == list(range(min(added), min(added) + 5))
    mean = old[: min(added)].mean(0)
    for row in added:
        torch.testing.assert_close(new[row], mean)
    assert torch.equal(new[: min(added)], old[: min(added)])
    for name, tensor in backbone.model.visual.state_dict().items():
        assert torch.equal(loaded.network.backbone.model.visual.state_dict()[name], tensor)
    # the folder that is made of it is strict like any other
    made = save_model(loaded.network, loaded.tokens, tmp_path / "m", prepared=loaded.prepared, provenance={})
    state = load_model(str(made)).network.state_dict()
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_a_base_that_does_not_fit_is_one_line(plain):
    folder, _ = plain
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(UserError, match="llama"):
        start_from(str(folder), suppress=True, seed=0)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no file"):
        start_from(str(folder), suppress=True, seed=0)
