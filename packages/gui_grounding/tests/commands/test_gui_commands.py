"""The verbs end to end on drawn pages, with a model that has hardly learned."""

import json
import shlex
import shutil

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
from gui_grounding.commands.train import Trained, train
from gui_grounding.model.folder import load_model, save_model
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
    assert (model.parent / "figures" / "training.png").is_file()


def test_what_train_proposes_next_runs(model, tmp_path, capsys):
    values = json.loads((model.parent / "metrics.json").read_text())
    *_, line = Trained(model, values).lines()
    assert line.startswith("Next: gui-grounding predict ")
    code, out, _ = call(capsys, *shlex.split(line)[2:], "--out", tmp_path / "p")
    assert code == 0
    assert values["example"][1] in out


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


def test_equal_names_have_outputs_of_their_own(samples, model, tmp_path):
    source = samples.folder / "images"
    places = {"a/s.png": 0, "b/s.png": 1, "a_s.png": 2, "x.png": 3, "x.bmp": 4, "noext": 5, "..png": 6}
    for place, number in places.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.open(source / f"page_{number:03}.png").save(tmp_path / place, "BMP" if place.endswith("bmp") else "PNG")
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"image": place, "instruction": f"click {place}"}) for place in places))
    out = tmp_path / "out"
    for status in ("done", "already done"):
        found = predict(path, model=str(model), out=out)
        assert {attempt.status for attempt in found.attempts} == {status}
        answered = {p["screenshot"]: p["groundings"][0]["instruction"] for p in found.predictions}
        assert answered == {place: f"click {place}" for place in places}
    assert (out / "log.jsonl").is_file()
    assert len([folder for folder in out.iterdir() if (folder / "prediction.json").is_file()]) == len(places)
    whole = predict(tmp_path, "one", model=str(model), out=tmp_path / "folder")
    pictures = [place for place in places if place != "noext"]
    # the overlays of the first run lie in the same folder: they are outputs, not screenshots
    assert sorted(p["screenshot"] for p in whole.predictions) == sorted(pictures)


def test_a_model_replaced_at_its_path_answers(samples, model, tmp_path):
    page = samples.folder / "images" / "page_000.png"
    place = tmp_path / "model"
    shutil.copytree(model, place)
    first = predict(page, "x", model=str(place), out=tmp_path / "first")
    other = load_model(str(model))
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.neg_()
    shutil.rmtree(place)
    save_model(other.network, other.tokens, place, prepared=other.prepared, provenance={})
    second = predict(page, "x", model=str(place), out=tmp_path / "second")
    ours, theirs = (run.predictions[0]["groundings"][0]["entropy"] for run in (first, second))
    assert ours != theirs


def test_a_large_screenshot_can_be_made_smaller(samples, model, tmp_path, capsys):
    large = tmp_path / "large.png"
    Image.open(samples.folder / "images" / "page_000.png").resize((2360, 1640)).save(large)
    code, _, err = call(capsys, "predict", large, "x", "--model", model, "--out", tmp_path / "p")
    assert code == 2
    assert "2360 × 1640 pixels has" in err
    assert "--skip-errors" not in err
    hint = err.split("--max-pixels ")[1].split()[0]
    code, out, _ = call(capsys, "predict", large, "x", "--model", model, "--out", tmp_path / "p", "--max-pixels", hint)
    assert code == 0
    assert "probability of a hit" in out
    (saved,) = (tmp_path / "p").glob("*/prediction.json")
    width, height = json.loads(saved.read_text())["groundings"][0]["resized"]
    assert width * height <= int(hint)


def test_what_no_answer_can_be_made_of_is_said_in_words(samples, model, tmp_path):
    page = samples.folder / "images" / "page_000.png"
    (samples.folder / "half.jsonl").write_text('{"image": "images/page_000.png", "instruction": "click \\ud83d"}')
    with pytest.raises(UserError, match="half of a character"):
        predict(samples.folder / "half.jsonl", model=str(model), out=tmp_path / "half")
    with pytest.raises(UserError, match="half of a character"):
        predict(page, "click \udcff", model=str(model), out=tmp_path / "half")
    loaded = load_model(str(model))
    with torch.no_grad():
        next(loaded.network.head.parameters()).fill_(float("nan"))
    broken = save_model(loaded.network, loaded.tokens, tmp_path / "nan", prepared=loaded.prepared, provenance={})
    with pytest.raises(UserError, match="not finite"):
        predict(page, "x", model=str(broken), out=tmp_path / "p")


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("preprocessing", "min_pixels", 10**9, "min_pixels is 1000000000"),
        ("preprocessing", "max_pixels", 100, "max_pixels is 100"),
        ("preprocessing", "min_pixels", 5_720_065, "min_pixels is 5720065"),
        ("config", "backbone", {}, "no configuration"),
        ("config", "backbone", [], "backbone"),
        ("config", "backbone", {"text_config": {}}, "does not fit"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(model, tmp_path, capsys, part, name, value, message):
    shutil.copytree(model, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    described = json.loads(path.read_text())
    described[part][name] = value
    path.write_text(json.dumps(described))
    code, _, err = call(capsys, "models", "check", tmp_path / "m")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 2


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


def moved(samples, folder, **change):
    """The samples' annotations with changes, in a place of their own."""
    items = [item | change for item in json.loads(samples.annotations.read_text())]
    path = folder / "pages.json"
    path.write_text(json.dumps(items))
    return {"images": samples.folder / "images", "path": path, "items": items}


def test_judging_is_of_the_targets_that_are_asked_for(samples, tmp_path):
    whole = moved(samples, tmp_path)
    first = evaluate(whole["path"], images=whole["images"], out=tmp_path / "e", resamples=20)
    regrouped = moved(samples, tmp_path, group="desktop", platform="macos")
    again = evaluate(regrouped["path"], images=whole["images"], out=tmp_path / "e", resamples=20)
    assert {attempt.status for attempt in again.attempts} == {"already done"}
    rows = [json.loads(line) for line in (tmp_path / "e" / "predictions.jsonl").read_text().splitlines()]
    assert {(row["group"], row["platform"]) for row in rows} == {("desktop", "macos")}
    everywhere = moved(samples, tmp_path, bbox=[0, 0, 224, 168])
    options = {"images": whole["images"], "boxes": "xyxy", "resamples": 20}
    with pytest.raises(UserError, match="made with another targets"):
        evaluate(everywhere["path"], out=tmp_path / "e", **options)
    fresh = evaluate(everywhere["path"], out=tmp_path / "fresh", **options)
    assert fresh.table["centre"]["all"]["hit@1"]["value"] == 1 > first.table["centre"]["all"]["hit@1"]["value"]
    with pytest.raises(UserError, match="were not judged by the same"):
        compare([tmp_path / "e", tmp_path / "fresh"], resamples=20)


def test_items_that_failed_are_told_beside_the_figures(samples, tmp_path):
    whole = moved(samples, tmp_path)
    (tmp_path / "images").mkdir()
    for file in whole["images"].iterdir():
        shutil.copy(file, tmp_path / "images")
    first = whole["items"][0]["img_filename"]
    (tmp_path / "images" / first).write_bytes(b"no picture")
    judged = evaluate(whole["path"], out=tmp_path / "e", resamples=20)
    failed = sum(item["img_filename"] == first for item in whole["items"])
    words = f"{failed} items of 1 screenshots that failed"
    assert judged.table["centre"]["all"]["items"] == samples.items - failed
    assert any(words in line for line in judged.lines())
    for name in ("table.md", "report.html"):
        assert words in (tmp_path / "e" / name).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"id": None}, "no predictor, id or image"), ({"hit@1": "yes"}, "hit@1 is 'yes'"), ("[1", "not JSON")],
)
def test_damaged_evaluations_are_one_line(tmp_path, change, message):
    row = {"predictor": "centre", "id": "a", "image": "a.png", "hit@1": 1.0}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    text = change if isinstance(change, str) else json.dumps(row | change)
    (tmp_path / "two" / "predictions.jsonl").write_text(json.dumps(row) + "\n" + text)
    with pytest.raises(UserError, match="line 2 is damaged") as error:
        compare([tmp_path / "one", tmp_path / "two"])
    assert message in error.value.message


def test_verbs_take_the_annotations_of_a_folder_with_both(samples, tmp_path):
    assert evaluate(samples.folder, out=tmp_path / "e", resamples=20).table["centre"]["all"]["items"] == samples.items
    for verb in (evaluate, plot):
        with pytest.raises(UserError, match="is a training file") as error:
            verb(samples.training, out=tmp_path / "t")
        assert str(samples.annotations) in error.value.hint


def test_what_is_left_open_follows_the_start():
    assert Recipe().filled(on_base=True) == Recipe(epochs=1, lr=1e-4, batch=1, learns="head")
    small = Recipe(epochs=3).filled(on_base=False)
    assert (small.epochs, small.learns) == (3, "all")
    with pytest.raises(UserError, match="--learns"):
        Recipe(learns="nothing")
    with pytest.raises(UserError, match="--max-pixels"):
        AskOptions(max_pixels=1)


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
    assert picture.size == (672, 504)  # small pages are enlarged three times
    assert picture.getpixel((3 * x1, 3 * y1)) == (0, 150, 60)
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
