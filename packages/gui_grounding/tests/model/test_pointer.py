"""The whole network: padding, rotary tables, families, checkpoints in old and new layouts, prompts."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from core_runtime.errors import UserError
from gui_grounding.model.answers import reformat_coordinates
from gui_grounding.model.folder import Prepared, load_model, save_model
from gui_grounding.model.patches import cut_patches, resized_size
from gui_grounding.model.pointer import PointerModel
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.model.tokens import ADDED_TOKENS, ANSWERS, IMAGE, PAD, TEXT_END, make_tokenizer

TEXTS = ["click the red button", *ANSWERS.values()]
SIZES = TinySizes(width=32, vision_width=32)


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(TEXTS, sizes=SIZES)


def picture(width, height, seed=0):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def batch(tokens, questions, *, side="right"):
    """Prompts of (image, instruction, action) as one padded batch."""
    patches = [cut_patches(image) for image, _, _ in questions]
    ids = []
    for cut, (_, instruction, action) in zip(patches, questions, strict=True):
        cells = cut.rows * cut.columns
        ids.append(tokens.prompt("Find it.", cells, instruction, answer=ANSWERS[action]).ids)
    longest = max(map(len, ids))
    input_ids = torch.full((len(ids), longest), tokens.id(TEXT_END))
    mask = torch.zeros_like(input_ids)
    for row, sample in enumerate(ids):
        place = slice(0, len(sample)) if side == "right" else slice(longest - len(sample), longest)
        input_ids[row, place] = torch.tensor(sample)
        mask[row, place] = 1
    values = torch.cat([cut.values for cut in patches])
    grids = torch.cat([cut.grid for cut in patches])
    return input_ids, mask, values, grids


QUESTIONS = [
    (picture(84, 56, 1), "click the red button", "click"),
    (picture(56, 112, 2), "pull the handle to the far right end of the scale", "drag"),
    (picture(84, 84, 3), "x", "click"),
]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_is_each_sample_alone(family, side):
    model, tokens = tiny_model(TEXTS, sizes=SIZES, family=family)
    with torch.no_grad():
        together = model(*batch(tokens, QUESTIONS, side=side))
        for row, question in enumerate(QUESTIONS):
            alone = model(*batch(tokens, [question]))
            assert len(alone.logits[0]) == (2 if question[2] == "drag" else 1)
            torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-5)


def test_a_sample_without_a_pointer_adds_nothing_and_still_runs_the_head(tiny):
    model, tokens = tiny
    ids, mask, values, grids = batch(tokens, QUESTIONS[:1])
    ids = ids.masked_fill(ids == tokens.id(PAD), tokens.id(TEXT_END))
    loss = model(ids, mask, values, grids, targets=[None]).loss
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None for p in model.head.parameters())
    model.zero_grad()
    with pytest.raises(ValueError, match="pointer tokens and 1 targets"):
        model(ids, mask, values, grids, targets=[torch.ones(1, 6)])


def test_image_tokens_must_fit_their_image(tiny):
    model, tokens = tiny
    ids, mask, values, grids = batch(tokens, QUESTIONS[:1])
    with pytest.raises(ValueError, match="image tokens"):
        model(ids.masked_fill(ids == tokens.id(IMAGE), 0), mask, values, grids)


def test_rotary_frequencies_stay_exact_in_half_precision():
    model, _ = tiny_model(TEXTS, sizes=SIZES)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    model.to(torch.bfloat16)
    assert before
    assert model.head.project.weight.dtype == torch.bfloat16
    for name, buffer in model.named_buffers():
        if "inv_freq" in name:
            assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_patches_are_projected_as_the_convolution_does(family):
    model, _ = tiny_model(TEXTS, sizes=SIZES, family=family)
    embed = model.backbone.model.visual.patch_embed
    patches = torch.randn(9, 3 * 2 * 14 * 14)
    ours = embed(patches)
    embed.proj.__class__ = torch.nn.Conv3d
    torch.testing.assert_close(ours, embed(patches), rtol=1e-5, atol=1e-5)


def published_folder(folder, model, tokens, *, layout, shards=1):
    """What the authors publish: transformers' configuration and tensors under their names."""
    folder.mkdir()
    state = {}
    head = {
        "project.": "self_attention.in_proj_",
        "output.": "self_attention.out_proj.",
        "norm.": "layer_norm.",
        "encode_keys.": "projection_enc.",
        "encode_queries.": "projection_dec.",
    }
    tied = model.config.backbone["tie_word_embeddings"]
    for name, tensor in model.state_dict().items():
        if name.startswith("head."):
            key = name.removeprefix("head.")
            for ours, theirs in head.items():
                if key.startswith(ours):
                    state[f"multi_patch_pointer_head.{theirs}{key.removeprefix(ours)}"] = tensor.clone()
            continue
        key = name.removeprefix("backbone.")
        if tied and key == "lm_head.weight":
            continue
        if layout == "old":
            key = key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        state[key] = tensor.clone()
    config = dict(model.config.backbone)
    for part in ("start", "pad", "end"):
        config[f"pointer_{part}_token_id"] = getattr(model.config, f"pointer_{part}")
    (folder / "config.json").write_text(json.dumps(config))
    tokens.save(folder / "tokenizer.json")
    names = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors")
    else:
        index = {name: f"model-{number % shards}.safetensors" for number, name in enumerate(names)}
        for file in set(index.values()):
            save_file({name: state[name] for name in names if index[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize(("layout", "shards", "tied"), [("old", 1, False), ("old", 3, True), ("new", 2, False)])
def test_published_checkpoints_load_save_and_load_again_bit_by_bit(family, layout, shards, tied, tmp_path):
    model, tokens = tiny_model(TEXTS, sizes=SIZES, family=family, tied=tied)
    folder = published_folder(tmp_path / "V2P", model, tokens, layout=layout, shards=shards)
    (folder / "system_message.txt").write_text("Look closely.\n")
    (folder / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 7840}))
    loaded = load_model(str(folder))
    assert loaded.prepared.system_message == "Look closely."
    assert (loaded.prepared.min_pixels, loaded.prepared.max_pixels) == (784, 7840)
    again = save_model(loaded.network, loaded.tokens, tmp_path / "ours", prepared=loaded.prepared, provenance={})
    reloaded = load_model(str(again))
    assert reloaded.prepared == loaded.prepared
    for state in (loaded.network.state_dict(), reloaded.network.state_dict()):
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor), name
    if tied:
        lm_head, embeddings = reloaded.network.backbone.lm_head, reloaded.network.backbone.get_input_embeddings()
        assert lm_head.weight is embeddings.weight


def test_a_checkpoint_that_does_not_fit_is_one_line(tiny, tmp_path):
    model, tokens = tiny
    folder = published_folder(tmp_path / "V2P", model, tokens, layout="old")
    whole = load_file(folder / "model.safetensors")

    def refused(state, match):
        save_file(state, folder / "model.safetensors")
        with pytest.raises(UserError, match=match) as error:
            load_model(str(folder))
        assert "\n" not in error.value.message
        save_file(whole, folder / "model.safetensors")

    refused({k: v for k, v in whole.items() if "layers.1" not in k}, "missing: backbone.model.language_model.layers.1")
    refused(whole | {"model.extra": torch.ones(1)}, "unexpected")
    head = "multi_patch_pointer_head.projection_enc.0.weight"
    refused(whole | {head: torch.ones(16, 16)}, r"head.encode_keys.0.weight has shape")
    refused(whole | {"multi_patch_pointer_head.extra": torch.ones(1)}, "without a place")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_model(str(folder))
    swapped = make_tokenizer(TEXTS).tokenizer.to_str()
    swapped = (
        swapped.replace(ADDED_TOKENS[2], "@").replace(ADDED_TOKENS[4], ADDED_TOKENS[2]).replace("@", ADDED_TOKENS[4])
    )
    Tokenizer.from_str(swapped).save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="its tokenizer has"):
        load_model(str(folder))


def test_a_plain_qwen_is_not_taken_for_a_pointer_model(tiny, tmp_path):
    model, tokens = tiny
    folder = published_folder(tmp_path / "Qwen", model, tokens, layout="old")
    config = json.loads((folder / "config.json").read_text())
    del config["pointer_pad_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pointer_pad_token_id"):
        load_model(str(folder))


def test_an_old_checkpoint_without_a_message_warns(tiny, tmp_path, capsys):
    model, tokens = tiny
    load_model(str(published_folder(tmp_path / "GUI-Actor-3B", model, tokens, layout="old")))
    assert "clicks degrade" in capsys.readouterr().err


def test_special_tokens_in_an_instruction_are_letters(tiny):
    _, tokens = tiny
    prompt = tokens.prompt("Find it.", 4, f"<|im_end|>{PAD}{IMAGE}", answer=ANSWERS["click"])
    assert prompt.ids.count(tokens.id(PAD)) == 1
    assert prompt.ids.count(tokens.id(IMAGE)) == 4
    assert "<|im_end|><|pointer_pad|><|image_pad|>" in tokens.decode(prompt.ids)


def test_the_prompt_is_the_published_text(tiny):
    _, tokens = tiny
    prompt = tokens.prompt("Find it.", 2, "הקש כאן", answer=ANSWERS["click"])
    assert tokens.decode(prompt.ids) == (
        "<|im_start|>system\nFind it.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
        "הקש כאן<|im_end|>\n<|im_start|>assistant<|recipient|>os\n"
        "pyautogui.click(<|pointer_start|><|pointer_pad|><|pointer_end|>)"
    )
    ids, learned = tokens.example("Find it.", 2, "there", ANSWERS["click"])
    text = tokens.decode([number for number, flag in zip(ids, learned, strict=True) if flag])
    assert text == "<|recipient|>os\npyautogui.click(<|pointer_start|><|pointer_pad|>)<|diff_marker|>\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [((42, 70), (56, 56)), ((14, 14), (56, 56)), ((1, 1), (56, 56)), ((300, 170), (308, 168)), ((98, 98), (112, 112))],
)
def test_screens_are_resized_as_published(given, expected):
    """Halves go to the even multiple of 28; what is smaller than 3,136 pixels is enlarged."""
    assert resized_size(*given) == expected


def test_the_largest_screen_has_7296_cells():
    width, height = resized_size(7680, 4320)
    assert width // 28 * (height // 28) <= 7296
    with pytest.raises(UserError, match="200 times"):
        resized_size(6000, 28)


def test_answers_keep_their_text():
    text, points = reformat_coordinates("move x=.5, y=1 then from_coord=[0, 1.0], to_coord=[0.25,0.5] x=2")
    assert points == [(0.5, 0.999), (0.001, 0.999), (0.25, 0.5)]
    assert text.startswith("move <|pointer_start|>")
    assert text.endswith(" x=2")


def test_the_model_is_loaded_as_the_class_that_it_is(tiny, tmp_path):
    model, tokens = tiny
    folder = save_model(model, tokens, tmp_path / "m", prepared=Prepared(), provenance={"data": "none"})
    loaded = load_model(str(folder))
    assert isinstance(loaded.network, PointerModel)
    assert loaded.provenance["data"] == "none"
    described = json.loads((folder / "config.json").read_text())
    described["preprocessing"]["scoring"] = "median"
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="scoring"):
        load_model(str(folder))
