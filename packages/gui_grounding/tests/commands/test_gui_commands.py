"""The verbs end to end on drawn pages, with a model that has hardly learned."""

import json

import pytest
import torch
from PIL import Image

from core_runtime.cli import run as run_command
from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from gui_grounding.cli import app
from gui_grounding.commands.compare import compare
from gui_grounding.commands.evaluate import evaluate
from gui_grounding.commands.inspect import inspect
from gui_grounding.commands.plot import plot
from gui_grounding.commands.predict import AskOptions, ViewOptions, predict
from gui_grounding.commands.train import train
from gui_grounding.model.folder import load_model
from gui_grounding.samples import make_samples
from gui_grounding.training.module import fit_calibration
from gui_grounding.training.recipe import Recipe, Start

SMALL = Start(width=32, layers=1, vision_layers=1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("pages"), pages=8)


@pytest.fixture(scope="module")
def model(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    recipe = Recipe(epochs=1, batch=4, questions=2, learns="all", lr=1e-3, share=0.5, lm_weight=1.0)
    return train(samples.training, recipe=recipe, start=SMALL, run=RunOptions(out=out)).model


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        run_command(app, [str(a) for a in arguments])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def test_a_trained_model_is_calibrated_and_says_what_it_learned_from(model):
    loaded = load_model(str(model))
    assert loaded.prepared.slope >= 0
    assert len(loaded.provenance["screens"]) == 4
    values = json.loads((model.parent / "metrics.json").read_text())
    assert values["screens"] == {"train": 4, "valid": 4}
    assert values["learning"] == values["parameters"]


def test_many_instructions_one_folder_and_a_rerun(samples, model, tmp_path, capsys):
    page = samples.folder / "images" / "page_000.png"
    words = [
        "predict",
        page,
        "click the red button",
        "press the blue circle",
        "--model",
        model,
        "--out",
        tmp_path / "p",
    ]
    code, out, _ = call(capsys, *words, "--write", "pyautogui", "--pixel-ratio", 2, "--origin=-10,5", "--json")
    assert code == 0
    (prediction,) = json.loads(out)["predictions"]
    assert [grounding["instruction"] for grounding in prediction["groundings"]] == words[2:4]
    target = prediction["groundings"][0]["targets"][0]
    assert target["screen"] == pytest.approx([target["image"][0] / 2 - 10, target["image"][1] / 2 + 5])
    x, y = (round(value) for value in target["screen"])
    assert prediction["groundings"][0]["written"] == f"pyautogui.click(x={x}, y={y})"
    assert len(list((tmp_path / "p" / "page_000").glob("overlay_*.png"))) == 2
    options = {"view": ViewOptions(pixel_ratio=2.0, origin=(-10.0, 5.0)), "write": "pyautogui", "out": tmp_path / "p"}
    again = predict(page, *words[2:4], model=str(model), **options)
    assert again.attempts[0].status == "already done"
    with pytest.raises(UserError, match="instructions"):
        predict(page, "another", model=str(model), **options)


def test_json_lines_and_folders(samples, model, tmp_path):
    lines = [
        {"image": "images/page_000.png", "instruction": "one"},
        {"image": "images/page_000.png", "instructions": ["two", "three"]},
        {"image": "images/absent.png", "instruction": "one"},
    ]
    path = samples.folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = predict(path, model=str(model), out=tmp_path / "lines")
    assert [len(prediction["groundings"]) for prediction in found.predictions] == [3]
    assert found.code == 1
    assert "no such file" in found.attempts[1].message
    whole = predict(samples.folder / "images", "one", model=str(model), out=tmp_path / "folder", ask=AskOptions(top=1))
    assert len(whole.predictions) == 8
    assert {len(p["groundings"][0]["targets"][0]["regions"]) for p in whole.predictions} == {1}
    dragged = predict(
        samples.folder / "images" / "page_000.png",
        "from the left to the right",
        model=str(model),
        out=tmp_path / "drag",
        ask=AskOptions(action="drag"),
        write="openai",
    )
    (grounding,) = dragged.predictions[0]["groundings"]
    assert len(grounding["targets"]) == 2
    assert json.loads(grounding["written"])["type"] == "drag"


def test_a_model_that_abstains_says_so(samples, model, tmp_path, capsys):
    page = samples.folder / "images" / "page_000.png"
    code, out, _ = call(capsys, "predict", page, "x", "--model", model, "--out", tmp_path / "p", "--abstain", 1)
    assert code == 0
    assert "not here" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "no --model"),
        (["", "--model", "MODEL"], "instruction is empty"),
        (["--model", "MODEL"], "no instruction"),
        (["x", "--model", "MODEL", "--write", "xdotool"], "no format is called"),
        (["x", "--model", "MODEL", "--pixel-ratio", "0"], "pixel-ratio"),
        (["x", "--model", "MODEL", "--zoom", "--action", "drag"], "a drag has two"),
        (["x", "--model", "MODEL", "--write", "seeclick", "--action", "drag"], "has no drag"),
        (["word " * 10_000, "--model", "MODEL"], "10,000 words"),
    ],
)
def test_mistakes_of_predict_are_one_line(samples, model, tmp_path, capsys, words, message):
    page = samples.folder / "images" / "page_000.png"
    words = [str(model) if word == "MODEL" else word for word in words]
    code, _, err = call(capsys, "predict", page, *words, "--out", tmp_path / "p")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "p" / "page_000").exists()


def test_a_benchmark_is_judged_resumed_and_compared(samples, model, tmp_path):
    out = tmp_path / "e"
    judged = evaluate(samples.annotations, model=str(model), blind=True, out=out, resamples=20)
    assert list(judged.table) == ["centre", "text-blind", "model"]
    assert judged.table["model"]["all"]["items"] == samples.items
    assert {"type: icon", "type: text"} <= judged.table["model"].keys()
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["system_message"]
    assert facts["versions"]["transformers"]
    assert facts["calibration"]["items"] == samples.items
    assert facts["conventions"] == {"pages.json": "xyxy"}
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * samples.items
    assert rows[-1]["resized"] == [224, 168]
    for name in ("report.html", "table.md", "table.csv", "table.tex"):
        assert "hit@1" in (out / name).read_text()
    # one screenshot's answers are lost: only they are made again
    lost = sorted((out / "answers").glob("*.json"))[2]
    lost.unlink()
    again = evaluate(samples.annotations, model=str(model), blind=True, out=out, resamples=20)
    assert [attempt.status for attempt in again.attempts].count("already done") == 7
    assert json.dumps(again.table) == json.dumps(judged.table)
    with pytest.raises(UserError, match="another"):
        evaluate(samples.annotations, model=str(model), ask=AskOptions(threshold=0.5), blind=True, out=out)
    other = evaluate(samples.annotations, out=tmp_path / "centre", resamples=20)
    assert list(other.table) == ["centre"]
    compared = compare([out, tmp_path / "centre"], resamples=50)
    (row,) = compared.rows
    assert row["items"] == samples.items
    expected = judged.table["model"]["all"]["hit@1"]["value"] - judged.table["centre"]["all"]["hit@1"]["value"]
    assert row["difference"] == pytest.approx(expected)
    assert len(compare([out], measure="mass", resamples=50).rows) == 1  # the centre has no attention
    with pytest.raises(UserError, match="is not an evaluation"):
        compare([tmp_path])


@pytest.mark.parametrize("learns", ["head", "lora", "language"])
def test_what_does_not_learn_stays(samples, model, learns, tmp_path):
    before = load_model(str(model))
    recipe = Recipe(epochs=1, batch=8, questions=1, learns=learns, rank=2, lr=1e-2, share=0)
    start = Start(base=str(model))
    trained = train(samples.training, recipe=recipe, start=start, run=RunOptions(out=tmp_path / "run"))
    after = load_model(str(trained.model))
    changed = set()
    old = before.network.state_dict()
    for name, tensor in after.network.state_dict().items():
        if not torch.equal(tensor, old[name]):
            changed.add(name)
    assert any(name.startswith("head.") for name in changed)
    assert not any(".visual." in name for name in changed)
    layers = [name for name in changed if ".layers." in name]
    assert bool(layers) == (learns != "head")
    if learns == "lora":
        assert {name.rpartition(".")[0].rpartition(".")[2] for name in layers} <= {
            *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        }
    if learns != "language":
        name = "backbone.model.language_model.embed_tokens.weight"
        rows = (after.network.state_dict()[name] != old[name]).any(1).nonzero().flatten().tolist()
        # <|recipient|>, <|pointer_start|>, <|pointer_pad|>: what follows the last query has no gradient
        assert set(rows) <= {
            before.tokens.id(token) for token in ("<|recipient|>", "<|pointer_start|>", "<|pointer_pad|>")
        }
        assert rows


@pytest.mark.parametrize("learns", ["all", "lora"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(samples, model, learns, tmp_path, monkeypatch):
    from gui_grounding.training.module import PointerTraining

    recipe = Recipe(epochs=3, batch=4, questions=2, learns=learns, rank=2, lr=1e-3, share=0.25)
    start = Start(base=str(model))
    whole = train(samples.training, recipe=recipe, start=start, run=RunOptions(out=tmp_path / "whole"))
    step = PointerTraining.training_step

    def stop(self, batch, index):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(PointerTraining, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(samples.training, recipe=recipe, start=start, run=RunOptions(out=tmp_path / "run"))
    monkeypatch.setattr(PointerTraining, "training_step", step)
    assert not (tmp_path / "run" / "model").exists()
    resumed = train(samples.training, recipe=recipe, start=start, run=RunOptions(out=tmp_path / "run", resume=True))
    expected = load_model(str(whole.model))
    for name, tensor in load_model(str(resumed.model)).network.state_dict().items():
        assert torch.equal(tensor, expected.network.state_dict()[name]), name
    assert load_model(str(resumed.model)).prepared == expected.prepared


def test_a_screenshot_is_never_on_both_sides(samples, tmp_path):
    with pytest.raises(UserError, match="8 screenshots are in the training and in the validation"):
        train(samples.training, valid=samples.annotations, start=SMALL, run=RunOptions(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_inspect_says_how_boxes_are_counted(samples, model):
    findings = inspect(samples.annotations)
    assert findings.details["boxes"] == "xyxy"
    assert findings.details["usable"] == samples.items
    assert inspect(samples.training).details["questions"] == samples.items
    page = inspect(samples.folder / "images" / "page_000.png")
    assert "8 × 6 cells" in page.summary
    folder = inspect(samples.folder)
    assert len(folder.findings) == 2


def test_targets_are_drawn_where_the_elements_are(samples, tmp_path):
    plotted = plot(samples.annotations, out=tmp_path / "figures", most=2)
    assert len(plotted.figures) == 2
    assert plotted.not_drawn == 6
    item = json.loads(samples.annotations.read_text())[0]
    picture = Image.open(plotted.figures[0]).convert("RGB")
    x1, y1, _, _ = item["bbox"]
    assert picture.getpixel((x1, y1)) == (0, 150, 60)
    assert "data:image/png" in (tmp_path / "figures" / "report.html").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not written by this command"):
        plot(samples.annotations, out=tmp_path / "mine", overwrite=True)


def test_models_are_checked_and_unknown_ones_refused(model, capsys):
    code, out, _ = call(capsys, "models", "check", model)
    assert code == 0
    assert "calibrated: True" in out
    code, _, err = call(capsys, "models", "convert", model, "--out", model.parent / "other")
    assert code == 2
    assert len(err.splitlines()) <= 2


def test_calibration_learns_a_threshold():
    pairs = [(number / 200, number > 100) for number in range(200)]
    slope, offset = fit_calibration(pairs)
    assert slope > 0
    assert -offset / slope == pytest.approx(0.5, abs=0.05)
    assert fit_calibration(pairs[:9]) is None
    slope, _ = fit_calibration([(number / 200, number < 100) for number in range(200)])
    assert slope == 0


def test_pixel_limits_that_cross_are_refused(samples, tmp_path):
    start = Start(width=32, min_pixels=2000, max_pixels=1000)
    with pytest.raises(UserError, match="is more than"):
        train(samples.training, start=start, run=RunOptions(out=tmp_path / "run"))


def test_odd_screens_are_told(model, tmp_path, capsys):
    Image.new("RGB", (5700, 28)).save(tmp_path / "wide.png")
    code, _, err = call(capsys, "predict", tmp_path / "wide.png", "x", "--model", model, "--out", tmp_path / "p")
    assert code == 2
    assert "200 times" in err
