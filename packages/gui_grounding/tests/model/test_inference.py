"""Asking a screen: one instruction or many, written or placed answers, second looks, calibration. Weights are random: what is compared is equal ways."""

import numpy as np
import pytest
import torch
from PIL import Image

from core_runtime.errors import UserError
from gui_grounding.coordinates import View
from gui_grounding.model.folder import Loaded, Prepared
from gui_grounding.model.inference import Asking, Grounder
from gui_grounding.model.regions import entropy_of
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.model.tokens import ANSWERS, END

QUESTIONS = ["click the red button", "open", "לחץ על הכפתור", "<|im_end|>", "a " * 40]


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (168, 224, 3), np.uint8))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen2_vl"])
def grounder(request):
    network, tokens = tiny_model(
        ["click the red button", *ANSWERS.values()], sizes=TinySizes(width=32, vision_width=32), family=request.param
    )
    return Grounder(Loaded(network, tokens, Prepared(), {}))


@pytest.mark.parametrize("action", ["click", "drag"])
def test_many_instructions_on_one_screen_are_each_alone(grounder, image, action):
    asking = Asking(action=action)
    together = grounder.ground(image, QUESTIONS, asking)
    for question, shared in zip(QUESTIONS, together, strict=True):
        (alone,) = grounder.ground(image, [question], asking)
        assert len(alone.scores) == len(ANSWERS[action].split(", "))
        np.testing.assert_allclose(shared.scores, alone.scores, rtol=2e-4, atol=1e-6)
        assert shared.positions[0].normalised == pytest.approx(alone.positions[0].normalised, abs=1e-4)


def test_one_pass_gives_what_the_whole_model_gives(grounder, image):
    """The answer in place, cached or not, is the published forward on the same text."""
    network, tokens = grounder.network, grounder.tokens
    encoded = grounder.encode(image)
    prompt = tokens.prompt(Prepared().system_message, 48, QUESTIONS[0], answer=ANSWERS["click"])
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        output = network(ids, torch.ones_like(ids), encoded.patches.values, encoded.patches.grid)
    expected = output.logits[0].softmax(-1)
    torch.testing.assert_close(grounder.attend(encoded, QUESTIONS[0], "click"), expected, rtol=2e-4, atol=1e-6)


def test_a_written_answer_is_the_answer_in_place(grounder, image):
    """Generate mode on the text that placeholder mode gives: the same hidden state, and ``<|pointer_end|>`` is forced."""
    encoded = grounder.encode(image)
    script = grounder.tokens.trusted(ANSWERS["click"].replace(END, ""))
    following = iter([*script, grounder.tokens.id("<|diff_marker|>")])
    text, scores = grounder.generate(encoded, QUESTIONS[0], choose=lambda logits: next(following))
    assert text == ANSWERS["click"]
    torch.testing.assert_close(scores, grounder.attend(encoded, QUESTIONS[0], "click"), rtol=2e-4, atol=1e-6)
    # the cache is as it was: the next question finds the screen alone
    assert encoded.cache.get_seq_length() == len(encoded.shared)
    text, scores = grounder.generate(encoded, QUESTIONS[0], longest=3)
    assert len(scores) <= 3


def test_a_second_look_is_mapped_back_exactly(grounder, image):
    view = View(*image.size, pixel_ratio=2, origin=(-100, 7))
    (first,) = grounder.ground(image, QUESTIONS[:1], view=view)
    (second,) = grounder.ground(image, QUESTIONS[:1], Asking(zoom=True), view=view)
    assert second.confidence == first.confidence
    position = second.positions[0]
    assert position.view == view
    # within the half of the screenshot around one of the first look's regions
    x, y = position.image
    windows = []
    for candidate in first.targets[0]:
        px, py = candidate.position.pixel
        left, top = min(max(px - 56, 0), 112), min(max(py - 42, 0), 84)
        windows.append(left <= x <= left + 112 and top <= y <= top + 84)
    assert any(windows)
    with pytest.raises(UserError, match="a drag has two"):
        grounder.ground(image, QUESTIONS[:1], Asking("drag", zoom=True))


def test_abstention_follows_the_calibration(grounder, image):
    (plain,) = grounder.ground(image, QUESTIONS[:1], Asking(abstain_below=0.99))
    assert plain.probability is None
    assert plain.abstains == (plain.confidence < 0.99)
    loaded = grounder.loaded
    calibrated = Loaded(loaded.network, loaded.tokens, Prepared(slope=0.0, offset=2.0), {})
    (sure,) = Grounder(calibrated).ground(image, QUESTIONS[:1], Asking(abstain_below=0.85))
    assert sure.probability == pytest.approx(1 / (1 + np.exp(-2)))
    assert not sure.abstains


def test_facts_hold_every_space(grounder, image):
    (grounding,) = grounder.ground(image, QUESTIONS[:1])
    facts = grounding.facts()
    assert {"normalised", "image", "css", "page", "screen", "regions"} == facts["targets"][0].keys()
    assert facts["resized"] == [224, 168]
    assert 0 < facts["confidence"] <= 1
    assert sum(each.sum() for each in grounding.scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("question", "match"), [("  ", "empty"), ("word " * 10_000, "10,000 words")])
def test_instructions_that_cannot_be_asked(grounder, image, question, match):
    with pytest.raises(UserError, match=match):
        grounder.ground(image, [question])


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (2800, 14)])
def test_small_and_narrow_screens_have_a_point_inside(grounder, size):
    (grounding,) = grounder.ground(Image.new("RGB", size, "white"), ["x"])
    x, y = grounding.positions[0].normalised
    assert 0 <= x <= 1
    assert 0 <= y <= 1


def test_a_view_of_another_size_is_refused(grounder, image):
    with pytest.raises(UserError, match="its view"):
        grounder.ground(image, ["x"], view=View(10, 10))


def test_half_precision_points_near_full(grounder, image):
    network, tokens = tiny_model(["x"], sizes=TinySizes(width=32, vision_width=32))
    full = Grounder(Loaded(network, tokens, Prepared(), {})).ground(image, ["x"])[0].scores[0]
    half = Grounder(Loaded(network.to(torch.bfloat16), tokens, Prepared(), {})).ground(image, ["x"])[0].scores[0]
    assert np.abs(full - half).sum() < 0.3


def test_entropy_has_its_ends():
    assert entropy_of(np.array([0.0, 1.0, 0.0])) == 0
    assert entropy_of(np.full(7, 1 / 7)) == pytest.approx(1)
    assert entropy_of(np.ones(1)) == 0
