import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, open_run, output_names, writing
from core_runtime.identity import data_fingerprint
from core_runtime.options import RunOptions, flat


def test_writing_is_whole_or_absent(tmp_path):
    target = tmp_path / "a" / "[x]*.txt"
    with pytest.raises(RuntimeError), writing(target) as path:  # noqa: PT012 - the error must come after the half
        path.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with writing(target) as path:
        path.write_text("whole")
    assert target.read_text() == "whole"


def test_remains_of_a_killed_writer_are_swept(tmp_path):
    target = tmp_path / "[x]*.txt"
    code = f"""
import os, signal
from core_runtime.identity import data_fingerprint
from core_runtime.folders import writing
with writing({str(target)!r}) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    with writing(target) as path:
        path.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_a_folder_replaces_a_folder_that_holds_something(tmp_path):
    for text in ("old", "new"):
        with writing(tmp_path / "x") as folder:
            folder.mkdir()
            (folder / text).touch()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert os.listdir(tmp_path / "x") == ["new"]


def test_a_place_that_cannot_be_written_is_a_plain_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), writing(tmp_path / "file" / "x"):
        pytest.fail("no work may be done before the place is known to be writable")


def test_another_files_trouble_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "x"):
        (tmp_path / "absent").read_text()


def test_fingerprints(tmp_path):
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    big = tmp_path / "big"
    big.write_bytes(bytes(200_000))
    before = data_fingerprint([big])
    big.write_bytes(bytes(199_999) + b"x")
    assert data_fingerprint([big]) != before


def test_run_folders_are_never_mixed(tmp_path):
    run = tmp_path / "run"
    open_run(RunOptions(out=run), {"lr": 0.1}, packages=["typer", "no-such-thing"], data="d")
    (run / "metrics.csv").write_text("x")
    with pytest.raises(UserError, match="already holds"):
        open_run(RunOptions(out=run), {"lr": 0.1}, data="d")
    open_run(RunOptions(out=run, resume=True), {"lr": 0.1}, data="d")
    with pytest.raises(UserError, match="lr"):
        open_run(RunOptions(out=run, resume=True), {"lr": 0.2}, data="d")
    with pytest.raises(UserError, match="data have changed"):
        open_run(RunOptions(out=run, resume=True), {"lr": 0.1}, data="e")
    assert (run / "metrics.csv").exists()
    open_run(RunOptions(out=run, overwrite=True), {"lr": 0.2})
    assert sorted(os.listdir(run)) == ["config.yaml"]


def test_a_run_records_its_options_and_a_model_gets_those_that_are_no_path(tmp_path):
    run = RunOptions(out=tmp_path / "run", seed=7)
    arguments = flat(data=Path("here"), lists=[Path("a"), Path("b")], lr=0.1, names=("x", "y"))
    goes_along = open_run(run, arguments)
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["arguments"]
    assert (recorded["seed"], recorded["data"]) == (7, str(Path("here").resolve()))
    assert "out" not in recorded
    assert recorded == goes_along | {"data": recorded["data"], "lists": recorded["lists"]}
    assert (goes_along["lr"], goes_along["names"], goes_along["seed"]) == (0.1, ["x", "y"], 7)
    assert open_run(RunOptions(out=run.out, seed=7, resume=True), arguments) == goes_along


def test_a_run_that_is_overwritten_leaves_nothing_of_the_one_before(tmp_path):
    run = tmp_path / "run"
    open_run(RunOptions(out=run), {"a": 1})
    for name in ("checkpoints", "model", "predictions", "figures"):
        (run / name).mkdir()
        (run / name / "of_before").touch()
    (run / "report.html").touch()
    open_run(RunOptions(out=run, overwrite=True), {"a": 2})
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_no_two_inputs_share_the_name_of_an_output():
    assert output_names(["a.png", "b/c.d.png", "noext"]) == ["a", "b_c.d", "noext"]
    alike = [
        ("x.png", "x.bmp"),
        ("a/s.png", "a_s.png"),
        ("A.png", "a.png"),
        ("..png", "../..png", ".png", "/.png"),
        ("../s.png", "s.png"),
        ("noext", "noext.png"),
    ]
    for inputs in alike:
        names = output_names(inputs)
        assert len({name.casefold() for name in names}) == len(inputs)
        assert output_names(inputs[::-1]) == names[::-1]
        for name in names:
            assert name
            assert not name.startswith((".", "-"))
            assert "/" not in name
    (long,) = output_names(["ä" * 500 + ".png"])
    assert len(long.encode()) < 170
    (beside,) = output_names(["log.jsonl.png"], taken=["log.jsonl"])
    assert beside != "log.jsonl"
