import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
import yaml

from core_runtime import cli
from core_runtime.errors import UserError


@pytest.fixture
def app():
    app = cli.application("toy", "A toy.")

    @app.command()
    def work(
        path: Annotated[Path, typer.Argument()],
        epochs: Annotated[int, typer.Option(min=1)] = 3,
        lr: float = 0.1,
        config: Annotated[Path | None, cli.config_option({"train_epoch": "epochs", "pin_memory": None})] = None,
        json: cli.Json = False,
        verbose: cli.Verbose = False,
    ) -> None:
        if path.name == "bad":
            raise UserError("bad\x1b[31m\nfile", "mend it")
        if path.name == "bug":
            raise RuntimeError("tensor([1., 2.]) of /home/jane_doe")
        if path.name == "some":
            raise typer.Exit(1)
        cli.emit({"epochs": epochs, "lr": lr, "loss": float("nan")}, json, lambda: print(epochs, lr))

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


@pytest.mark.parametrize(
    "arguments",
    [["work"], ["work", "x", "--epochs", "0"], ["work", "x", "--epochs", "many"], ["play"], ["work", "x", "--nix"]],
)
def test_usage_errors_exit_2_with_a_hint(app, capsys, arguments):
    code, out, err = call(app, capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 2
    assert "Traceback" not in err


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
        ("epochs: none at all", "--epochs"),
    ],
)
def test_config_mistakes_are_plain(app, capsys, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    code, _, err = call(app, capsys, "work", "x", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert words in err


def test_resolve_device_names_what_is_missing():
    torch = pytest.importorskip("torch")
    assert cli.resolve_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda"):
            cli.resolve_device("cuda")
