"""Three namings of one model, LoRA, and the two files of a published detector."""

import pytest
import torch

from core_attention.systems import load_strictly
from ieeg.model.lora import freeze_base, merged, with_lora
from ieeg.model.mvpformer import MVPFormer, build
from ieeg.model.naming import config_of, head_keys, joined, layout_of, segment_of, to_layout, to_ours

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


def small(**changes) -> MVPFormer:
    torch.manual_seed(0)
    return build("s", **{**SMALL, **changes}).eval()


def with_updates(**changes) -> MVPFormer:
    model = small(lora_rank=3, lora_alpha=6.0, classes=2, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize("layout", ["official", "braindecode", "ours"])
def test_there_and_back_again(layout):
    model, x = small(classes=2), torch.randn(1, 5, 3, 64)
    named = to_layout(model.state_dict(), layout, buffers=True)
    assert layout_of(named) == layout
    state = to_ours(named)
    config = config_of(state)
    again = MVPFormer(config).eval()
    load_strictly(again, state)
    assert torch.equal(again(x), model(x))
    if layout != "braindecode":
        assert config == model.config
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_official_names_are_the_published_ones():
    official = to_layout(with_updates().state_dict(), "official", buffers=True)
    assert {
        "seizure_embeddings",
        "encoder.ln.weight",
        "encoder.proj.weight",
        "head.head.weight",
        "mvpformer.positional_embedding.weight",
        "mvpformer.channel_embedding.weight",
        "mvpformer.ln_f.weight",
        *(f"mvpformer.h.1.attn.{n}.weight" for n in ("q_attn", "c_attn", "position_net", "channel_net", "c_proj")),
        *(f"mvpformer.h.1.attn.{n}.lora_{m}" for n in ("q_attn", "c_attn") for m in "AB"),
        *(f"mvpformer.h.1.mlp.{n}_proj.weight" for n in ("gate", "up", "down")),
        *(f"mvpformer.h.1.{n}.weight" for n in ("ln_1", "ln_2")),
        *(f"mvpformer.h.1.attn.{n}" for n in ("attn_bias", "time_bias", "masked_bias")),
    } <= official.keys()
    assert official["mvpformer.h.1.attn.time_bias"].shape == (1, 1, 16, 16)


def test_a_base_and_a_head_file_make_a_detector():
    detector = with_updates()
    official = to_layout(detector.state_dict(), "official")
    base = {k: v for k, v in official.items() if "lora_" not in k}
    base["head.head.weight"] = torch.randn(32, 32)
    head = {k: v for k, v in official.items() if "lora_" in k or k.startswith("head.")}
    head["class_loss.weight"] = torch.ones(2)
    state = joined(to_ours(base), head_keys(head))
    again = MVPFormer(config_of(state, lora_alpha=6.0)).eval()
    load_strictly(again, state)
    x = torch.randn(1, 5, 3, 64)
    assert torch.equal(again(x), detector(x))
    with pytest.raises(ValueError, match="seizure head"):
        joined(to_ours(base), head_keys(base))
    with pytest.raises(ValueError, match=r"head\.head\.weight"):
        joined(to_ours(base), {})


def test_merged_updates_say_the_same():
    model, x = with_updates(), torch.randn(2, 5, 3, 64)
    flat = merged(model)
    assert not any("lora" in k for k in flat.state_dict())
    torch.testing.assert_close(flat(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="merge it into"):
        to_layout(model.state_dict(), "braindecode")


def test_fresh_updates_change_nothing_and_only_they_and_the_head_learn():
    base, x = small(), torch.randn(1, 5, 3, 64)
    tuned = with_lora(base, rank=4)
    assert torch.equal(tuned(x), base(x))
    detector = with_lora(base, rank=4, classes=2).train()
    learning = freeze_base(detector)
    torch.nn.functional.cross_entropy(detector(x), torch.tensor([1])).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or name == "head.weight"), name
    assert len(learning) == 1 + 4 * base.config.layers
    with pytest.raises(ValueError, match="LoRA already"):
        with_lora(tuned)


def test_what_is_no_mvpformer_says_so():
    with pytest.raises(ValueError, match="not MVPFormer weights"):
        layout_of({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks"):
        config_of({"decoder.ln_f.weight": torch.zeros(32)})
    state = small().state_dict() | {"decoder.extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="extra"):
        load_strictly(small(), state)


@pytest.mark.parametrize(("length", "coefficients"), [(2560, 2610), (777, 818), (128, 154), (100, 119)])
def test_segment_lengths_from_coefficients(length, coefficients):
    from ieeg.model.wavelets import band_lengths

    found = segment_of(coefficients)
    assert sum(band_lengths(found)) == coefficients
    if length == 2560:
        assert found == length
