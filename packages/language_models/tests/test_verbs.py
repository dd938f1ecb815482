"""The verbs from end to end on small texts: training that resumes bit by bit, generation, evaluation, the arena, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny

from core_runtime.cli import run as run_app
from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from language_models.arena.cells import train_plainly
from language_models.arena.table import figure_of
from language_models.cli import app
from language_models.commands.arena import ArenaOptions, arena
from language_models.commands.evaluate import evaluate
from language_models.commands.generate import DecodingOptions, generate
from language_models.commands.inspect import inspect
from language_models.commands.train import train
from language_models.model.folder import load_model, save_model
from language_models.model.inference import check_positions
from language_models.model.kinds import check_context, sizes_for
from language_models.model.plain import PlainConfig
from language_models.samples import make_samples
from language_models.tasks.options import TaskOptions
from language_models.texts.tokens import BYTE_TOKENIZER
from language_models.training.module import TextTraining
from language_models.training.recipe import Recipe

SMALL = {"params": 20_000, "context": 16, "batch": 4, "save_every": 3}


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Path:
    return make_samples(tmp_path_factory.mktemp("texts") / "samples")[0]


@pytest.fixture(scope="module")
def trained(story, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return train(
        str(story), recipe=Recipe(kind="sliding", tokens=16 * 4 * 8, **SMALL), run=RunOptions(out=out, device="cpu")
    )


def code_of(*words) -> int:
    with pytest.raises(SystemExit) as end:
        run_app(app, [str(word) for word in words])
    return int(end.value.code or 0)


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_run_goes_on_bit_by_bit(story, trained, tmp_path, monkeypatch, stop):
    """The run is broken off in the middle of a round; the checkpoint before it, and the order of the rest, give the same weights."""
    real = TextTraining.training_step

    def failing(self, batch, index):
        if self.global_step == stop:
            raise KeyboardInterrupt
        return real(self, batch, index)

    recipe = Recipe(kind="sliding", tokens=16 * 4 * 8, **SMALL)
    options = RunOptions(out=tmp_path / "run", device="cpu")
    monkeypatch.setattr(TextTraining, "training_step", failing)
    with pytest.raises(KeyboardInterrupt):
        train(str(story), recipe=recipe, run=options)
    monkeypatch.setattr(TextTraining, "training_step", real)
    again = train(str(story), recipe=recipe, run=RunOptions(out=tmp_path / "run", device="cpu", resume=True))
    whole = load_model(str(trained.model)).model.state_dict()
    for name, value in load_model(str(again.model)).model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_generate_continues_and_streams_the_same(trained, capsys):
    options = DecodingOptions(new_tokens=12)
    text = generate("In the", model=str(trained.model), decoding=options, device="cpu").text
    streamed = generate("In the", model=str(trained.model), decoding=options, device="cpu", stream=True)
    assert streamed.text == text
    assert capsys.readouterr().out == "In the" + text + "\n"
    drawn = [
        generate(
            "In the",
            model=str(trained.model),
            decoding=DecodingOptions(new_tokens=12, temperature=1.0, top_k=20),
            device="cpu",
            seed=s,
        ).text
        for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    beams = generate("In the", model=str(trained.model), decoding=DecodingOptions(new_tokens=12, beams=3), device="cpu")
    assert beams.text


@pytest.mark.parametrize(
    ("name", "refused"),
    [("standard", True), ("moba", True), ("moh-norm", True), ("static", True), ("sliding", False), ("doge", False), ("titans-mag", False)],
)  # fmt: skip
def test_whole_attention_does_not_go_beyond_its_trained_positions_unasked(name, refused, capsys):
    model = tiny(name, max_position_embeddings=16)
    check_positions(model, 7, 9, beyond=False)
    if not refused:
        check_positions(model, 7, 100, beyond=False)
        return
    with pytest.raises(UserError, match="beyond the 16") as error:
        check_positions(model, 7, 10, beyond=False)
    assert "--new-tokens 9 fits" in error.value.hint
    check_positions(model, 7, 10, beyond=True)
    assert "beyond the 16" in capsys.readouterr().err


def test_generate_goes_on_with_a_mechanism_that_is_made_for_it(trained):
    text = generate(
        "In the morning", model=str(trained.model), decoding=DecodingOptions(new_tokens=9), device="cpu"
    ).text
    assert len(text) <= 9


def test_every_task_gives_its_measures(story, trained, tmp_path):
    tasks = ("text", "needle", "passkey", "ruler", "recall", "attention")
    asked = TaskOptions(tasks=tasks, lengths=(300,), each=1, windows=3, depths=(0.0, 1.0))
    found = evaluate(story, model=str(trained.model), task=asked, out=tmp_path / "out", device="cpu")
    assert set(found.bits_per_byte) == {4, 8, 16, 32, 64}
    assert 0 < found.bits_per_byte[64] < 9
    assert set(found.needles) == {300}
    assert set(found.recall) == {2, 4, 8}
    assert set(found.worded) == {"passkey", "ruler 1", "ruler 2", "ruler 3"}
    assert len(found.attention) == 2
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["perplexity"]
    assert (tmp_path / "out" / "windows.csv").read_text().startswith("context,window,bits_per_byte")
    with pytest.raises(UserError, match="already holds"):
        evaluate(story, model=str(trained.model), task=asked, out=tmp_path / "out", device="cpu")


def test_the_local_task_of_the_harness_needs_its_extra_or_runs(story, trained, tmp_path):
    asked = TaskOptions(tasks=("harness",))
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="lm-eval"):
            evaluate(story, model=str(trained.model), task=asked, out=tmp_path / "out", device="cpu")
    else:
        found = evaluate(story, model=str(trained.model), task=asked, out=tmp_path / "out", device="cpu")
        assert 0 <= found.harness["local acc_norm"] <= 1


def test_scores_of_continuations_are_sums_of_log_probabilities(trained):
    from language_models.tasks.harness import score

    loaded = load_model(str(trained.model))
    whole, _ = score(loaded.model, loaded.tokenizer, "In the ", "old mill")
    first, _ = score(loaded.model, loaded.tokenizer, "In the ", "old ")
    second, _ = score(loaded.model, loaded.tokenizer, "In the old ", "mill")
    assert whole == pytest.approx(first + second, abs=1e-3)


OWN = '''
from language_models.model.plain import PlainConfig

def config(sizes):
    """Attention to the last three tokens alone."""
    return PlainConfig(**sizes.common(), attention="sliding", window=3)
'''


def test_an_arena_goes_on_where_it_was_stopped_and_takes_a_users_file(story, tmp_path):
    own = tmp_path / "three.py"
    own.write_text(OWN)
    budget = ArenaOptions(
        params=20_000, tokens=640, seeds=2, context=16, batch=4, needle_lengths=(16, 32), needles=2, text_windows=2, recall_steps=2,
        pairs=2, speed_lengths=(32,),
    )  # fmt: skip
    kinds = ("standard", str(own))
    met = arena(text=story, kinds=kinds, budget=budget, out=tmp_path / "arena", device="cpu")
    assert met.code == 0, met.failed
    table = [dict(zip(met.titles, row, strict=True)) for row in met.table]
    assert [row["kind"] for row in table] == list(kinds)
    assert "±" in table[0]["bits/byte @ 16"]
    assert table[0]["parameters"]
    assert {p.name for p in (tmp_path / "arena").iterdir()} >= {
        "arena.json",
        "arena.csv",
        "arena.md",
        "report.html",
        "cells",
    }
    assert "data:image/png" in (tmp_path / "arena" / "report.html").read_text()
    # one cell is lost: a rerun makes it alone
    lost = tmp_path / "arena" / "cells" / "text" / "standard-1.json"
    kept = tmp_path / "arena" / "cells" / "text" / "standard-0.json"
    before, at = json.loads(lost.read_text()), kept.stat().st_mtime_ns
    lost.unlink()
    again = arena(text=story, kinds=kinds, budget=budget, out=tmp_path / "arena", device="cpu")
    assert [a.status for a in again.attempts].count("done") == 1
    assert kept.stat().st_mtime_ns == at
    after = json.loads(lost.read_text())
    assert after["bits_per_byte"] == before["bits_per_byte"], "a cell is a function of its seed"
    with pytest.raises(UserError, match="another budget: lr"):
        arena(
            text=story,
            kinds=kinds,
            budget=ArenaOptions(**{**vars(budget), "lr": 1e-3}),
            out=tmp_path / "arena",
            device="cpu",
        )


def test_a_kind_that_cannot_run_a_cell_says_why(story, tmp_path):
    own = tmp_path / "broken.py"
    own.write_text(OWN.replace("return PlainConfig", "raise RuntimeError('no such thing')\n    return PlainConfig"))
    with pytest.raises(Exception, match="no such thing"):
        arena(
            text=story,
            kinds=(str(own),),
            budget=ArenaOptions(params=20_000, context=16),
            out=tmp_path / "arena",
            device="cpu",
        )
    with pytest.raises(UserError, match="no kind is called"):
        arena(text=story, kinds=("standart",), out=tmp_path / "arena", device="cpu")


def test_figures_have_intervals_over_seeds():
    assert figure_of([1.0]).margin is None
    assert figure_of([1.0, 2.0, 3.0]).margin == pytest.approx(4.303 * 1.0 / 3**0.5)
    assert figure_of([None], "too long").shown() == "– (too long)"


def test_a_model_folder_is_inspected_with_its_memory(trained):
    found = inspect(trained.model, at=100_000)
    assert found.details["parameters"] == trained.parameters
    assert "memory at 100,000 tokens" in found.details


def test_a_loss_that_is_not_finite_names_step_and_layer(story, tmp_path, monkeypatch):
    from language_models.model import kinds

    real = kinds.new_model

    def damaged(config, seed):
        model = real(config, seed)
        model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
        return model

    monkeypatch.setattr(kinds, "new_model", damaged)
    with pytest.raises(UserError, match=r"step 0 is nan: the weights model\.layers\.1\.mlp\.down_proj\.weight"):
        train(str(story), recipe=Recipe(tokens=640, **SMALL), run=RunOptions(out=tmp_path / "run", device="cpu"))


def test_a_cell_whose_loss_is_not_finite_names_step_and_layer():
    model = tiny("sliding").float()
    model.model.layers[1].mlp.down_proj.weight.data.fill_(3e38)
    ids = torch.arange(24).view(2, 12)
    with pytest.raises(UserError, match=r"step 0 is nan: .* that of model\.layers\.1\.mlp") as error:
        train_plainly(model, [(ids, ids, None)], 1, 0.25, "cpu", "32-true")
    assert "lower learning rate than 0.25" in error.value.hint


BAD = {
    "text shorter than one context": ["train", "{short}", "--out", "{out}", "--context", "512"],
    "too few parameters": ["train", "{story}", "--out", "{out}", "--params", "1000"],
    "unknown kind": ["train", "{story}", "--out", "{out}", "--kind", "lnadmark"],
    "pattern that cannot be read": ["train", "{story}", "--out", "{out}", "--kind", "hybrid:even:wrong"],
    "empty text": ["train", "{empty}", "--out", "{out}"],
    "binary text": ["train", "{binary}", "--out", "{out}"],
    "absent data set": ["train", "hf:no/such", "--out", "{out}"],
    "another kind of checkpoint": ["generate", "a", "--model", "{other}"],
    "damaged checkpoint": ["generate", "a", "--model", "{damaged}"],
    "cut checkpoint": ["generate", "a", "--model", "{cut}"],
    "weights that are not finite": ["generate", "a", "--model", "{nan}"],
    "other shapes than config.json says": ["inspect", "{shapes}"],
    "pattern of absent layers": ["train", "{story}", "--out", "{out}", "--kind", "hybrid:9:mlp"],
    "contexts that are too short": ["evaluate", "{story}", "--model", "{model}", "--contexts", "1", "--out", "{out}"],
    "contexts in fractions": ["evaluate", "{story}", "--model", "{model}", "--contexts", "8.5", "--out", "{out}"],
    "needles that do not fit": ["evaluate", "{story}", "--model", "{model}", "--lengths", "3", "--out", "{out}"],
    "depth beyond the end": ["evaluate", "{story}", "--model", "{model}", "--depths", "2", "--out", "{out}"],
    "more pairs than keys": [
        "evaluate",
        "{story}",
        "--model",
        "{model}",
        "--tasks",
        "recall",
        "--pairs",
        "33",
        "--out",
        "{out}",
    ],
    "worded needles that do not fit": [
        "evaluate",
        "{story}",
        "--model",
        "{model}",
        "--tasks",
        "ruler",
        "--lengths",
        "10",
        "--out",
        "{out}",
    ],
    "arena with needles that do not fit": ["arena", "--text", "{story}", "--needle-lengths", "2", "--out", "{out}"],
    "arena with negative lengths": ["arena", "--text", "{story}", "--speed-lengths", "-5", "--out", "{out}"],
    "tokenizer that is not there": ["train", "{story}", "--tokenizer", "absent.json", "--out", "{out}"],
    "user's kind that ends Python": ["train", "{story}", "--kind", "{quits}", "--out", "{out}"],
    "window longer than the context": ["train", "{story}", "--kind", "{wide}", "--context", "16", "--out", "{out}"],
    "block longer than the context": ["train", "{story}", "--kind", "{doge}", "--context", "16", "--out", "{out}"],
    "fixed stream shorter than the context": [
        "train",
        "{story}",
        "--kind",
        "{stream}",
        "--context",
        "16",
        "--out",
        "{out}",
    ],
    "landmarks that leave no chunk": ["train", "{story}", "--kind", "{landmarks}", "--context", "16", "--out", "{out}"],
    "arena with a window longer than the context": [
        *("arena", "--text", "{story}", "--kinds", "{wide}", "--context", "16", "--out", "{out}"),
    ],
    "beyond the trained positions": ["generate", "a" * 60, "--model", "{whole}", "--new-tokens", "10"],
    "beyond the fixed stream": ["generate", "a", "--model", "{fixed}", "--new-tokens", "70"],
    "no chunk in a model folder": ["generate", "a", "--model", "{chunkless}"],
    "another kind's weights": ["inspect", "{swapped}"],
    "a file for a model": ["generate", "a", "--model", "{story}"],
    "no model": ["generate", "a"],
    "beams that draw": ["generate", "a", "--model", "{model}", "--beams", "2", "--temperature", "1"],
    "unknown task": ["evaluate", "{story}", "--model", "{model}", "--tasks", "texts"],
    "patch of what is not dense": ["models", "patch", "{model}", "--to", "moba", "--out", "{out}"],
    "occupied output": ["models", "convert", "{model}", "--out", "{model}"],
}

KIND_FILE = """
from language_models.model.{module} import {config}

def config(sizes):
    return {config}(**{{**sizes.common(), {options}}})
"""
KIND_FILES = {
    name: KIND_FILE.format(module=module, config=config, options=options)
    for name, module, config, options in (
        ("wide", "plain", "PlainConfig", "'attention': 'sliding', 'window': 17"),
        ("doge", "doge", "DogeConfig", "'keep_window_size': 17"),
        ("stream", "deconstructed", "DeconstructedConfig", "'pattern': 'hybrid:first:rnd', 'fixed_length': 15"),
        ("landmarks", "landmark", "LandmarkConfig", "'mem_freq': 3, 'cache_top_k': 3, 'train_context_length': 16"),
    )
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_nothing_is_left(story, trained, tmp_path, capsys, what):
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"a\0b" * 100)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    import shutil

    shutil.copytree(trained.model, tmp_path / "damaged")
    folders = ("damaged", "cut", "nan", "shapes")
    for name in folders[1:]:
        shutil.copytree(trained.model, tmp_path / name)
    for name, size in (("damaged", 5000), ("cut", -4)):
        file = tmp_path / name / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])
    state = load_file(tmp_path / "nan" / "model.safetensors")
    state["model.norm.weight"][3] = float("nan")
    save_file(state, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "shapes" / "config.json").read_text())
    config["intermediate_size"] += 1
    (tmp_path / "shapes" / "config.json").write_text(json.dumps(config))
    (tmp_path / "quits.py").write_text("raise SystemExit(3)")
    for name, source in KIND_FILES.items():
        (tmp_path / f"{name}.py").write_text(source)
    byte_model = {"vocab_size": BYTE_TOKENIZER.size}
    whole = {"whole": ("standard", {"max_position_embeddings": 64}), "fixed": ("rnd", {"fixed_length": 64})}
    whole["chunkless"] = ("landmark-llama", {"train_context_length": 20})
    for name, (kind, options) in whole.items():
        model = tiny(kind, **byte_model, **options).float()
        save_model(model, tmp_path / name, tokenizer=BYTE_TOKENIZER, provenance={})
    shutil.copytree(trained.model, tmp_path / "swapped")
    config = json.loads((tmp_path / "swapped" / "config.json").read_text())
    (tmp_path / "swapped" / "config.json").write_text(json.dumps({**config, "model_type": "titans", "window": 4}))
    places = {name: tmp_path / name for name in ("out", "other", *folders)} | {"story": story, "model": trained.model}
    places |= {name: tmp_path / f"{name}.py" for name in ("quits", *KIND_FILES)}
    places |= {name: tmp_path / name for name in (*whole, "swapped")}
    places |= {name: tmp_path / f"{name}.txt" for name in ("short", "empty", "binary")}
    assert code_of(*[word.format(**places) for word in BAD[what]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert len(error.splitlines()) <= 2, error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_kind_of_exactly_the_context_is_learned():
    sizes = sizes_for(20_000, vocab_size=BYTE_TOKENIZER.size, context=16, landmark=BYTE_TOKENIZER.landmark)
    for options in ({"attention": "sliding", "window": 16}, {"attention": "standard", "window": 512}):
        check_context(PlainConfig(**sizes.common(), **options), 16)
    with pytest.raises(UserError, match="window is 17, longer than the context of 16"):
        check_context(PlainConfig(**sizes.common(), attention="moba", window=17), 16)


def test_evaluate_leaves_out_what_a_fixed_stream_does_not_reach_and_says_so(story, tmp_path, capsys):
    model = tiny("rnd", vocab_size=BYTE_TOKENIZER.size, max_position_embeddings=16, fixed_length=24).float()
    save_model(model, tmp_path / "model", tokenizer=BYTE_TOKENIZER, provenance={})
    tasks = ("text", "needle", "recall", "attention")
    asked = TaskOptions(
        tasks=tasks, contexts=(16, 64), lengths=(20, 40), depths=(0.5,), pairs=(2, 8), each=1, windows=1
    )
    measured = evaluate(story, model=str(tmp_path / "model"), task=asked, out=tmp_path / "out", device="cpu")
    assert (set(measured.bits_per_byte), set(measured.needles), set(measured.recall)) == ({16}, {20}, {2})
    said = capsys.readouterr().err
    for words in ("context 64", "needle length 40", "number of pairs 8"):
        assert f"fixed stream: {words}" in said


@pytest.mark.slow
def test_a_killed_training_leaves_nothing_half_and_resumes(story, tmp_path):
    out = tmp_path / "run"
    words = [
        "train",
        story,
        "--kind",
        "sliding",
        "--params",
        20000,
        "--tokens",
        16 * 4 * 400,
        "--context",
        16,
        "--batch",
        4,
    ]
    command = [
        sys.executable,
        "-m",
        "language_models.cli",
        *map(str, words),
        "--save-every",
        "20",
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    starter = "from language_models.cli import main; main()"
    command[1:3] = ["-c", starter]
    child = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.time() + 60
    while not (out / "checkpoints" / "last.ckpt").exists() and time.time() < end:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "model").exists()
    recipe = Recipe(kind="sliding", tokens=16 * 4 * 400, params=20_000, context=16, batch=4, save_every=20)
    resumed = train(str(story), recipe=recipe, run=RunOptions(out=out, device="cpu", resume=True))
    whole = train(str(story), recipe=recipe, run=RunOptions(out=tmp_path / "whole", device="cpu"))
    expected = load_model(str(whole.model)).model.state_dict()
    for name, value in load_model(str(resumed.model)).model.state_dict().items():
        assert torch.equal(value, expected[name])
