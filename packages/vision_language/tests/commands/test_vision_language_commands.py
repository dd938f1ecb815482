"""The verbs on drawn scenes: from samples to masks, retrieval and answers, and bad input of every kind in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from vision_language.commands.answer import VAR, answer
from vision_language.commands.compare import compare
from vision_language.commands.evaluate import Reading, evaluate
from vision_language.commands.find import find
from vision_language.commands.ground import find_questions, ground
from vision_language.commands.index import index
from vision_language.commands.probe import probe
from vision_language.commands.train import train
from vision_language.model.multimodal import load_multimodal
from vision_language.model.tiny import SINK, TAU, save_tiny_llava
from vision_language.samples import make_samples
from vision_language.training.recipe import Network, Recipe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("vl") / "data", scenes=6, seed=3)


@pytest.fixture(scope="module")
def grounder(samples):
    out = samples.folder.parent / "run"
    recipe = Recipe(epochs=1, batch=8, share=0.3)
    return train("grounding", samples.grounding, recipe=recipe, network=Network(side=48), run=RunOptions(out=out)).model


@pytest.fixture(scope="module")
def embedder(samples):
    out = samples.folder.parent / "focal"
    return train("focallens", samples.instructions, recipe=Recipe(epochs=1), run=RunOptions(out=out)).model


@pytest.fixture(scope="module")
def llava(samples):
    return save_tiny_llava(samples.folder.parent / "llava", ["is there a circle in the image?"])


def test_grounding_writes_everything_and_goes_on(samples, grounder, tmp_path):
    image = samples.folder / "images" / "scene_000.png"
    outcome = ground(image, "the red circle", "🔴", model=str(grounder), out=tmp_path / "g")
    assert outcome.code == 0
    (picture,) = outcome.groundings
    first, second = picture["sentences"]
    assert first["sentence"] == "the red circle"
    assert set(first["words"]) == {"the", "red", "circle"}
    assert second["words"].keys() == {"🔴"}
    x, y = first["point"]["pixels"]
    assert first["point"]["normalised"] == pytest.approx([x / 96, y / 96])
    folder = next(p for p in (tmp_path / "g").iterdir() if p.is_dir() and not p.name.startswith("."))
    mask = np.asarray(Image.open(folder / "mask_001.png"))
    assert mask.shape == (96, 96)
    assert set(np.unique(mask)) <= {0, 255}
    again = ground(image, "the red circle", "🔴", model=str(grounder), out=tmp_path / "g")
    assert [attempt.status for attempt in again.attempts] == ["already done"]
    with pytest.raises(UserError, match="made with another"):
        ground(image, "the blue square", model=str(grounder), out=tmp_path / "g")


def test_odd_pictures_are_read_and_noted(grounder, tmp_path):
    pictures = tmp_path / "odd"
    pictures.mkdir()
    Image.new("RGB", (1, 1), "red").save(pictures / "dot.png")
    Image.new("RGBA", (120, 30), (255, 0, 0, 90)).save(pictures / "wide.png")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(pictures / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "blue").save(pictures / "turned.jpg", exif=exif)
    outcome = ground(pictures, "a thing", model=str(grounder), out=tmp_path / "g")
    assert outcome.code == 0
    sizes = {row["picture"]: row["sentences"][0]["size"] for row in outcome.groundings}
    assert sizes == {"dot.png": [1, 1], "wide.png": [120, 30], "deep.png": [20, 20], "turned.jpg": [20, 40]}
    notes = {row["picture"]: row["notes"] for row in outcome.groundings}
    assert any("upright" in note for note in notes["turned.jpg"])


def test_sentences_that_are_none_are_refused(samples):
    image = samples.folder / "images" / "scene_000.png"
    for sentence in ("", "  ", "…", "?!"):
        with pytest.raises(UserError, match="holds no word"):
            ground(image, sentence, model="x")
    with pytest.raises(UserError, match="holds its own sentences"):
        find_questions(samples.grounding, ["red"], None)


def test_evaluation_has_blind_baselines_and_is_compared(samples, grounder, tmp_path):
    judged = evaluate("grounding", samples.grounding, model=str(grounder), resamples=20, out=tmp_path / "e")
    assert list(judged.table) == ["centre box", "whole picture", "shuffled sentences", "model"]
    for measures in judged.table.values():
        for entry in measures.values():
            assert entry["low"] <= entry["value"] <= entry["high"] or np.isnan(entry["value"])
    assert judged.values["settings"]["boxes"] == ["pixels"]
    with pytest.raises(UserError, match="already holds an evaluation"):
        evaluate("grounding", samples.grounding, model=str(grounder), out=tmp_path / "e")
    comparison = compare([tmp_path / "e"], resamples=50)
    assert comparison.rows


def test_missing_answers_are_in_no_figure(samples, tmp_path):
    rows = [json.loads(line) for line in samples.questions.read_text().splitlines()]
    answers = tmp_path / "answers.jsonl"
    said = [{"question_id": row["question_id"], "response": row["label"]} for row in rows[:-2]]
    answers.write_text("".join(json.dumps(row) + "\n" for row in said))
    judged = evaluate("pope", samples.questions, reading=Reading(answers=answers), resamples=20, out=tmp_path / "e")
    assert judged.table["answers"]["accuracy"]["value"] == 1
    assert judged.missing == 2
    assert judged.code == 1


def test_an_index_belongs_to_its_model_and_instruction(samples, embedder, tmp_path):
    file = tmp_path / "i.safetensors"
    made = index(samples.folder / "singles", model=str(embedder), instruction="which colour is it?", out=file)
    assert made.pictures == 24
    query = samples.folder / "singles" / "single_0000.png"
    found = find(file, str(query), model=str(embedder), top=5, out=tmp_path / "f.png")
    assert len(found.similar) == 5
    assert "single_0000.png" not in [name for name, _ in found.similar]
    assert (tmp_path / "f.png").is_file()
    assert find(file, "red", model=str(embedder), top=3, out=tmp_path / "w.png").similar
    other = samples.folder.parent / "focal2"
    again = train(
        "focallens", samples.instructions, recipe=Recipe(epochs=1, blind=True), run=RunOptions(out=other)
    ).model
    with pytest.raises(UserError, match="was made with another"):
        find(file, str(query), model=str(again), out=tmp_path / "g.png")


def test_probe_finds_the_planted_sink_and_answer_uses_it(samples, llava, tmp_path):
    image = samples.folder / "images" / "scene_000.png"
    found = probe(llava, image, tau=TAU, prompts=("is there a circle?",), out=tmp_path / "s.json")
    assert found.found["dims"] == (SINK,)
    options = {
        "model": str(llava),
        "tokens": 3,
        "var": VAR(keep_fraction=0.2, least_image_share=0.05, most_sink_share=1.0),
    }
    said = answer(image, "is there a circle?", sinks=found.out, out=tmp_path / "a", **options)
    assert said.edited > 0
    assert said.plain["margin"] is not None
    assert 0 < said.plain["on_picture"] <= 1
    assert (tmp_path / "a" / "looked.png").is_file()
    with pytest.raises(UserError, match="no sink dimensions are known for this llava"):
        answer(image, "is there a circle?", out=tmp_path / "b", **options)
    other = save_tiny_llava(tmp_path / "other", ["is there a circle in the image?"], seed=1)
    with pytest.raises(UserError, match="was found on another model"):
        answer(image, "is there?", sinks=found.out, out=tmp_path / "b", **(options | {"model": str(other)}))
    dry = answer(image, "is there?", dry_run=True, **options)
    assert "parameters" in dry.size
    (other / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        load_multimodal(other)
