"""`models`: the list, conversion of files and folders both ways, checks, and the words for what cannot be done."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from core_runtime.errors import UserError
from ieeg.commands.models import get
from ieeg.model.conversion import check_model, convert_checkpoint
from ieeg.model.folder import choose, load_model, save_model
from ieeg.model.layouts import ConversionOptions
from ieeg.model.mvpformer import build
from ieeg.model.naming import to_layout
from ieeg.model.published import PUBLISHED, RESEARCH_ONLY

SMALL = {
    "segment": 64,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "inner": 48,
    "positions": 16,
    "channels": 12,
}


def small(**changes):
    torch.manual_seed(0)
    return build("s", **{**SMALL, **changes}).eval()


def test_the_list_says_licence_size_gating_and_what_each_needs():
    models = [each.facts() for each in PUBLISHED]
    assert {"name", "licence", "size", "gated", "needs"} <= models[0].keys()
    assert all("research only" in m["licence"] for m in models)
    assert {"ibm-m-swec", "mvpformer-s-swec", "mvpformer-m-swec"} <= {m["name"] for m in models}


def test_a_published_file_to_a_model_folder_and_back(tmp_path):
    model, x = small(), torch.randn(1, 5, 3, 64)
    torch.save(to_layout(model.state_dict(), "official", buffers=True), tmp_path / "s_base.pt")
    facts = convert_checkpoint(tmp_path / "s_base.pt", tmp_path / "base")
    assert (facts["from"], facts["classes"], facts["heads"]) == ("official", 0, 2)
    loaded = load_model(tmp_path / "base")
    assert torch.equal(loaded.network(x), model(x))
    assert not loaded.detects
    assert RESEARCH_ONLY in (tmp_path / "base" / "README.md").read_text()
    assert loaded.provenance is not None
    assert loaded.provenance["notice"] == RESEARCH_ONLY
    convert_checkpoint(tmp_path / "base", tmp_path / "again.safetensors", ConversionOptions(to="official"))
    again = load_file(tmp_path / "again.safetensors")
    first = torch.load(tmp_path / "s_base.pt", weights_only=True)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[k], first[k]) for k in first)
    assert check_model(tmp_path / "base")["task"] == "forecast"
    with pytest.raises(UserError, match="already there"):
        convert_checkpoint(tmp_path / "s_base.pt", tmp_path / "base")


def test_a_head_file_needs_its_base(tmp_path):
    detector = small(classes=2, lora_rank=2)
    official = to_layout(detector.state_dict(), "official")
    base = {k: v for k, v in official.items() if "lora_" not in k} | {"head.head.weight": torch.randn(32, 32)}
    save_file(base, tmp_path / "s_base.safetensors")
    save_file(
        {k: v.contiguous() for k, v in official.items() if "lora_" in k or "head." in k},
        tmp_path / "s_swec.safetensors",
    )
    with pytest.raises(UserError, match="--base"):
        convert_checkpoint(tmp_path / "s_swec.safetensors", tmp_path / "model")
    facts = convert_checkpoint(
        tmp_path / "s_swec.safetensors",
        tmp_path / "model",
        ConversionOptions(base=tmp_path / "s_base.safetensors", merge=True),
    )
    assert (facts["classes"], facts["lora_rank"]) == (2, 0)
    x = torch.randn(1, 5, 3, 64)
    torch.testing.assert_close(load_model(tmp_path / "model").network(x), detector(x), rtol=1e-4, atol=1e-5)


def test_the_published_loader_s_quirk_sets_the_gain_to_ones(tmp_path):
    model = small()
    with torch.no_grad():
        model.encoder.ln.weight.mul_(2)
    torch.save(to_layout(model.state_dict(), "official"), tmp_path / "base.pt")
    convert_checkpoint(tmp_path / "base.pt", tmp_path / "kept")
    convert_checkpoint(tmp_path / "base.pt", tmp_path / "ones", ConversionOptions(ones_gain=True))
    assert torch.equal(load_model(tmp_path / "kept").network.encoder.ln.weight, model.encoder.ln.weight)
    assert (load_model(tmp_path / "ones").network.encoder.ln.weight == 1).all()


def test_a_hub_folder_both_ways(tmp_path):
    detector, x = small(classes=2), torch.randn(1, 5, 3, 64)
    save_model(detector, tmp_path / "ours", rate=128.0, window=5, threshold=0.7)
    convert_checkpoint(tmp_path / "ours", tmp_path / "hub", ConversionOptions(to="braindecode"))
    described = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (described["n_times"], described["sfreq"], described["n_head_kv"]) == (320, 128.0, 1)
    convert_checkpoint(tmp_path / "hub", tmp_path / "back")
    back = load_model(tmp_path / "back")
    assert torch.equal(back.network(x), detector(x))
    assert (back.rate, back.window) == (128.0, 5)


def test_what_cannot_be_done_is_said_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no published model"):
        get("nothing", out=tmp_path)
    with pytest.raises(UserError, match="not on the hub"):
        get("ibm-s-base", out=tmp_path)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match="cannot be reached"):
        get("mvpformer-s-swec", out=tmp_path)
    (tmp_path / "noise.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"noise\.pt"):
        convert_checkpoint(tmp_path / "noise.pt", tmp_path / "x")
    torch.save({"conv.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not MVPFormer weights"):
        convert_checkpoint(tmp_path / "other.pt", tmp_path / "x")
    with pytest.raises(UserError, match="no folder"):
        load_model(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no --model"):
        choose(None)


def test_weights_that_are_damaged_are_found(tmp_path):
    model = small()
    with torch.no_grad():
        model.decoder.ln_f.weight[0] = float("nan")
    save_model(model, tmp_path / "model", window=5)
    with pytest.raises(UserError, match="not finite"):
        check_model(tmp_path / "model")
