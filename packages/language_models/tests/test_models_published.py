"""The models against transformers' own and the published sizes; conversions both ways; patches."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import SIZES, TINY, ids_of, tiny

from core_runtime.errors import UserError
from language_models.commands.models import convert
from language_models.model.convert import from_arguments, from_transformers, patch, recover_landmark, to_transformers
from language_models.model.deconstructed import DeconstructedConfig, DeconstructedForCausalLM, layer_kinds
from language_models.model.doge import DogeConfig, DogeForCausalLM
from language_models.model.folder import load_model, read_config, save_model
from language_models.model.forecast import state_numbers
from language_models.model.kinds import KINDS, count_parameters, fitted, sizes_for
from language_models.model.plain import twin_config
from language_models.model.titans import PRESETS, TitansConfig

close = {"rtol": 1e-5, "atol": 1e-5}  # transformers turns by angles in float32


def doge(width, inner, layers, heads, kv_heads):
    return DogeConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (doge(256, 512, 8, 2, 1), 13_118_728),
        (doge(512, 1024, 16, 4, 2), 54_571_552),
        (doge(768, 1536, 24, 6, 3), 152_676_168),
        (doge(1024, 2048, 32, 8, 4), 335_750_272),
        (DogeConfig(), 403_055_872),
    ],
    ids=["20M", "60M", "160M", "320M", "default"],
)
def test_doge_counts(config, count):
    with torch.device("meta"):
        model = DogeForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "millions"), [("titans-170m", 170), ("titans-340m", 340), ("titans-400m", 400), ("titans-760m", 760)]
)
def test_titans_presets_are_of_their_size(name, millions):
    assert abs(count_parameters(TitansConfig(**PRESETS[name])) / 1e6 - millions) < 0.06 * millions


@pytest.mark.parametrize("name", ["standard", "qwen", "mlp"])
def test_a_standard_model_equals_transformers(name):
    if name == "mlp":  # the study's own Standard model
        torch.manual_seed(0)
        model = DeconstructedForCausalLM(DeconstructedConfig(**SIZES, pattern="standard")).double().eval()
    else:
        model = tiny(name)
    other = to_transformers(model).double().eval()
    assert type(other).__name__ == ("LlamaForCausalLM" if name == "standard" else "Qwen2ForCausalLM")
    ids = ids_of(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, other(ids).logits, **close)


@pytest.mark.parametrize("name", ["standard", "qwen", "doge"])
def test_folders_of_transformers_are_read_and_written(name, tmp_path):
    model = tiny(name).float()
    other = to_transformers(model)
    other.save_pretrained(tmp_path / "theirs")
    again = from_transformers(tmp_path / "theirs", read_config(tmp_path / "theirs")).eval()
    ids = ids_of(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    # one tensor too few is an error, not a fresh one
    file = tmp_path / "theirs" / "model.safetensors"
    state = load_file(file)
    state.pop("model.layers.1.self_attn.q_proj.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight"):
        load_model(str(tmp_path / "theirs"))


def test_doge_equals_transformers_where_it_is_eager():
    model = tiny("doge").float()
    other = to_transformers(model).eval()
    other.set_attn_implementation("eager")
    ids = ids_of(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, other(ids).logits, rtol=1e-4, atol=1e-4)


def test_what_transformers_does_not_have_is_not_written():
    with pytest.raises(UserError, match="nonapprox"):
        to_transformers(tiny("nonapprox"))


@pytest.mark.parametrize("to", ["moba", "moh", "landmark", "dma"])
def test_a_patched_model_keeps_the_weights_and_says_what_is_new(to):
    dense = tiny("standard", num_key_value_heads=2).float()
    patched = patch(dense, to, window=64)
    assert patched.retrain
    assert bool(patched.new) == (to == "dma")
    key = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(patched.model.state_dict()[key], dense.state_dict()[key])
    ids = ids_of(1, 20)
    with torch.no_grad():
        logits = patched.model(ids).logits
    if to in ("moba", "landmark"):  # within one block both are the dense model
        torch.testing.assert_close(logits[..., :37], dense(ids).logits, rtol=1e-4, atol=1e-4)
    assert logits.isfinite().all()


def test_patch_refuses_what_is_not_dense():
    with pytest.raises(UserError, match="not dense"):
        patch(tiny("doge"), "moba")


def test_the_landmark_difference_is_added_and_its_sum_checked(tmp_path):
    tuned = tiny("landmark-llama").float()
    raw = {key: torch.randn_like(value) for key, value in tuned.state_dict().items()}
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        raw[key] = raw[key][:-1]  # the landmark has no row yet
    difference = {}
    for key, value in tuned.state_dict().items():
        own = raw[key]
        if len(own) < len(value):
            own = torch.cat([own, own.mean(0, keepdim=True)])
        difference[key] = value - own
    (tmp_path / "raw").mkdir()
    save_file(raw, tmp_path / "raw" / "model.safetensors")
    tuned.save_pretrained(tmp_path / "difference")
    save_file(difference, tmp_path / "difference" / "model.safetensors", metadata={"format": "pt"})
    total = sum(float(value.double().sum()) for value in tuned.state_dict().values())
    model = recover_landmark(tmp_path / "raw", tmp_path / "difference", checksum=total)
    ids = ids_of(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, tuned(ids).logits, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="sum to"):
        recover_landmark(tmp_path / "raw", tmp_path / "difference", checksum=total + 100)


def test_patterns_expand_to_the_papers_table():
    standard = lambda pattern: [i + 1 for i, kind in enumerate(layer_kinds(pattern, 24)) if kind == "standard"]  # noqa: E731
    assert standard("hybrid:nonapprox") == standard("hybrid:even:nonapprox") == list(range(2, 25, 2))
    assert standard("hybrid:odd:mlp") == list(range(1, 24, 2))
    assert standard("hybrid:top:mlp") == list(range(1, 13))
    assert standard("hybrid:bottom:mlp") == list(range(13, 25))
    assert standard("hybrid:middle:mlp") == [*range(1, 7), *range(19, 25)]
    assert standard("hybrid:25%:mlp") == [4, 8, 12, 16, 20, 24]
    assert standard("hybrid:first:mlp") == [1]
    assert standard("hybrid:last:mlp") == [24]
    assert standard("hybrid:bilateral:mlp") == [1, 24]
    assert standard("hybrid:2+5:mlp") == [2, 5]
    assert standard("uniform:approx") == []
    for wrong in ("hybrid:even:wrong", "hybrid:99:mlp", "hybrid:x:mlp", "a:b:c"):
        with pytest.raises(ValueError, match=r"pattern|layers"):
            layer_kinds(wrong, 24)


def test_skipped_layers_are_whole_blocks():
    hybrid = tiny("skipped", skip=False)
    skipped = tiny("skipped")
    skipped.load_state_dict(hybrid.state_dict())
    ids = ids_of(1, 12)
    with torch.no_grad():
        layer = hybrid.model.layers[1]  # the Standard one
        expected = hybrid.lm_head(hybrid.model.norm(layer(hybrid.model.embed_tokens(ids))[0]))
        torch.testing.assert_close(skipped(ids).logits, expected)


@pytest.mark.parametrize("params", [60_000, 300_000, 1_000_000])
def test_all_kinds_have_the_same_parameters(params):
    sizes = sizes_for(params, vocab_size=275, context=64, landmark=257)
    counts = {kind: count_parameters(fitted(make, sizes, params)) for kind, make in KINDS.items()}
    target = counts["standard"]
    assert abs(target - params) < 0.01 * params
    study = {kind: n for kind, n in counts.items() if kind.startswith(("deconstructed", "hybrid"))}
    assert len(set(study.values())) == 1, "those of the study agree exactly"
    others = {kind: n for kind, n in counts.items() if not kind.startswith(("deconstructed", "hybrid"))}
    assert all(
        abs(n - target) <= 0.005 * target + 1
        for kind, n in others.items()
        if kind not in ("mlp", "approx", "nonapprox", "rnd", "fixedseq", "static")
    )


@pytest.mark.parametrize("name", TINY)
def test_the_memory_forecast_is_near_what_a_cache_holds(name):
    model = tiny(name)
    cache, ids = model.new_cache(), ids_of(1, 30)
    with torch.no_grad():
        model(ids, cache=cache)
    held, expected = cache.state_bytes() / 8, state_numbers(model.config, 30)
    room = 70 * 4 * model.config.num_hidden_layers * model.config.hidden_size  # rows kept free for later tokens
    assert expected <= 1.35 * held + 64
    assert held <= 1.35 * expected + room


def test_a_twin_has_the_same_sizes():
    config = twin_config(tiny("landmark-llama").config)
    assert isinstance(config, transformers.LlamaConfig)
    assert (config.hidden_size, config.num_key_value_heads) == (24, 1)


def test_a_model_folder_holds_its_tokenizer_and_origin(tmp_path):
    from language_models.texts.tokens import BYTE_TOKENIZER

    save_model(tiny("doge").float(), tmp_path / "model", tokenizer=BYTE_TOKENIZER, provenance={"seed": 3})
    loaded = load_model(str(tmp_path / "model"))
    assert loaded.tokenizer == BYTE_TOKENIZER
    assert loaded.described["provenance"] == {"seed": 3}


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("case", "model_type"), [("titans/mac_micro", "titans-lr"), ("landmark/gpt_train_irregular", "landmark-gpt")]
)
def test_published_states_become_model_folders(case, model_type, tmp_path):
    config = json.loads((GOLDEN / f"{case}.json").read_text())["config"]
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    state = {key.removeprefix("state_dict/"): x.clone() for key, x in tensors.items() if key.startswith("state_dict/")}
    torch.save({"model": state, "itr": 3}, tmp_path / "checkpoint.pt")
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps(config))
    out = tmp_path / "model"
    convert(tmp_path / "checkpoint.pt", out=out, arguments=arguments)
    loaded = load_model(str(out)).model
    ids = ids_of(1, 12)
    with torch.no_grad():
        expected = from_arguments(tmp_path / "checkpoint.pt", arguments).eval()(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected)
    assert loaded.config.model_type == model_type
    key = next(key for key, x in state.items() if x.ndim == 2)
    save_file({**state, key: state[key][:-1].contiguous()}, tmp_path / "cut.safetensors")
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    for file, given, message in (
        ("cut.safetensors", "arguments.json", "cut"),
        ("other.safetensors", "arguments.json", "neither"),
        ("checkpoint.pt", "empty.json", "has no|streams"),
        ("checkpoint.pt", "list.json", "not a JSON object"),
        ("checkpoint.pt", "absent.json", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as error:
            convert(tmp_path / file, out=tmp_path / "bad", arguments=tmp_path / given)
        assert "\n" not in error.value.message
    assert not (tmp_path / "bad").exists()
