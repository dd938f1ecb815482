import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from safetensors import SafetensorError

from core_runtime import cli
from core_runtime.errors import UserError
from core_runtime.identity import identity
from core_runtime.options import AtLeast, Between, Names, Pair, RunOptions, flat, options, resolve_device

LEFT_OPEN: Any = None


@options
class Schedule:
    """How long.

    Attributes:
        epochs: passes over the data.
        lr: rate.
        shape: of the schedule.
        patience: epochs.
    """

    epochs: Annotated[int, AtLeast(1)] = 3
    lr: Annotated[float, Between(0, 1)] = 0.1
    shape: Literal["flat", "cosine"] = "flat"
    warmup: Annotated[int | None, AtLeast(0)] = None
    patience: Annotated[int, AtLeast(0)] = LEFT_OPEN

    def __post_init__(self) -> None:
        if self.warmup is not None and self.warmup >= self.epochs:
            raise UserError(f"--warmup {self.warmup} leaves nothing of {self.epochs} epochs", "choose fewer")


@dataclass(frozen=True)
class Worked(cli.Outcome):
    schedule: Schedule
    classes: tuple[str, ...]
    code: int = 0

    def facts(self):
        return {"epochs": self.schedule.epochs, "lr": self.schedule.lr, "loss": float("nan")}

    def lines(self):
        yield f"{self.schedule.epochs} {self.schedule.lr}"


def work(
    path: Path, /, *, schedule: Schedule = Schedule(), classes: Names | None = None, weights: Pair | None = None
) -> Worked:
    """Works on a path, so that it is worked on.

    Example: toy work x

    Args:
        path: a file.
        classes: their names.
    """
    if path.name == "bad":
        raise UserError("bad\x1b[31m\nfile", "mend it")
    if path.name == "bug":
        raise RuntimeError("tensor([1., 2.]) of /home/jane_doe")
    if path.name == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/home/jane_doe/last.ckpt")
    if path.name == "full-of-weights":  # safetensors has an error of its own for it
        raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")
    return Worked(schedule, classes or (), 1 if path.name == "some" else 0)


@pytest.fixture
def app():
    app = cli.application("toy", "A toy.")
    cli.add(app, work, published={"train_epoch": "epochs", "pin_memory": None})
    return app


def call(app, capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.run(app, [str(a) for a in arguments])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def test_done_and_some_failed(app, capsys):
    assert call(app, capsys, "work", "x")[:2] == (0, "3 0.1\n")
    assert call(app, capsys, "work", "some")[0] == 1


def test_json_has_no_nan(app, capsys):
    code, out, _ = call(app, capsys, "work", "x", "--json")
    assert code == 0
    assert json.loads(out) == {"epochs": 3, "lr": 0.1, "loss": None}


def test_user_error_is_two_plain_lines(app, capsys):
    code, out, err = call(app, capsys, "work", "bad")
    assert (code, out) == (2, "")
    assert err.splitlines() == ["Error: bad [31m file", "  mend it"]
    code, out, _ = call(app, capsys, "work", "bad", "--json")
    assert code == 2
    assert json.loads(out)["hint"] == "mend it"


def test_an_option_may_be_left_open_where_pydantic_checks_defaults(app, capsys):
    pytest.importorskip("pydantic")
    assert call(app, capsys, "work", "x")[:2] == (0, "3 0.1\n")
    assert call(app, capsys, "work", "x", "--patience", -1)[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        "work",
        "work x --epochs 0",
        "work x --epochs many",
        "play",
        "work x --nix",
        "work x --shape round",
        "work x --weights 1",
        "work x --warmup 5",
    ],
)
def test_usage_errors_exit_2_with_a_hint(app, capsys, words):
    code, out, err = call(app, capsys, *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 2
    assert "Traceback" not in err


def test_a_verb_that_may_replace_its_outputs_can_read_inputs_whole(capsys):
    def seen(path: Path, /, *, run: RunOptions = RunOptions()) -> None:
        """Prints how a file is recognised."""
        print(*identity(path))

    app = cli.application("toy", "A toy.")
    cli.add(app, seen)
    assert call(app, capsys, "seen", __file__)[1] == "size changed digest\n"
    assert call(app, capsys, "seen", __file__, "--full-digest")[1] == "size sha256\n"
    assert call(app, capsys, "seen", __file__)[1] == "size changed digest\n"


@pytest.mark.parametrize("path", ["full", "full-of-weights"])
def test_a_full_disk_is_one_plain_line(app, capsys, tmp_path, monkeypatch, path):
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    code, _, err = call(app, capsys, "work", path)
    assert code == 2
    assert err.startswith("Error: the disk is full\n  make room")
    assert "jane_doe" not in err
    assert not list(tmp_path.iterdir()), "no details of what is no fault of the program"


def test_an_unexpected_error_leaves_its_details_in_the_run_folder(app, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    code, _, err = call(app, capsys, "work", "bug")
    assert code == 2
    assert "RuntimeError" in err
    assert "jane_doe" not in err
    assert "tensor" not in err
    assert "jane_doe" in (tmp_path / "error.log").read_text()


def test_config_gives_defaults_and_flags_win(app, capsys, tmp_path):
    file = tmp_path / "ümlaut.yaml"
    file.write_text("train_epoch: 7\nlr: 0.5\npin_memory: true\n")
    assert call(app, capsys, "work", "x", "--config", file)[1] == "7 0.5\n"
    assert call(app, capsys, "work", "x", "--config", file, "--epochs", 2)[1] == "2 0.5\n"
    file.write_text(yaml.safe_dump({"command": "…", "arguments": {"epochs": 9}}))
    assert call(app, capsys, "work", "x", "--config", file)[1] == "9 0.1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", "did you mean 'epochs'"),
        ("- a\n- b", "option: value"),
        ("a: [", "not a YAML"),
        ("epochs: none at all", "epochs"),
        ("epochs: 0", "epochs"),
        ("lr: [1, 2]", "lr"),
        ("arguments:", "option: value"),
        ("lr: {a: 1}", "lr"),
    ],
)
def test_config_mistakes_are_plain(app, capsys, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    code, _, err = call(app, capsys, "work", "x", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert words in err


def test_resolve_device_names_what_is_missing():
    torch = pytest.importorskip("torch")
    assert resolve_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda"):
            resolve_device("cuda")


def test_the_help_of_a_verb_holds_its_options_their_limits_and_the_example(app, capsys):
    code, out, _ = call(app, capsys, "work", "--help")
    assert code == 0
    for words in (
        "Example: toy work x",
        "--epochs",
        "≥1",
        "0..1",
        "passes over the data",
        "flat, cosine",
        "--json",
        "--config",
    ):
        assert words in out
    assert call(app, capsys)[0] == 2


def test_a_run_is_repeated_from_its_recorded_arguments(app, capsys, tmp_path):
    schedule = Schedule(epochs=5, lr=0.25)
    file = tmp_path / "config.yaml"
    arguments = flat(path=Path("x"), schedule=schedule, classes=("a", "b"), weights=None)
    file.write_text(yaml.safe_dump({"arguments": arguments}))
    assert call(app, capsys, "work", "--config", file)[:2] == (0, "5 0.25\n")


def test_values_out_of_range_are_refused_in_python_too():
    with pytest.raises(UserError, match="--lr 2"):
        Schedule(lr=2.0)
    with pytest.raises(UserError, match="--shape: 'round' is not one of flat, cosine"):
        Schedule(shape="round")
    with pytest.raises(UserError, match="leaves nothing"):
        Schedule(warmup=9)


def test_a_run_records_what_results_depend_on():
    assert RunOptions(seed=3).recorded() == {
        "device": "auto", "devices": 1, "nodes": 1, "precision": "32-true", "workers": 0, "threads": None, "seed": 3
    }  # fmt: skip
