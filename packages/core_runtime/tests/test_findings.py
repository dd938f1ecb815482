"""What `inspect` says of a folder."""

import pytest

from core_runtime.errors import UserError, counted
from core_runtime.findings import MANY, Findings, FolderFindings, examine_files


def found(number: int, *warnings: str, usable: bool = True) -> Findings:
    return Findings(
        title=f"file {number}",
        kind="table",
        summary="3 rows.",
        usable=usable,
        details={"rows": 3},
        warnings=warnings,
        next_commands=["look"],
    )


def test_a_few_files_are_told_whole():
    lines = list(FolderFindings(findings=[found(1, "odd"), found(2)], unreadable={"x": "broken"}).lines())
    assert lines == [
        "file 1: table. 3 rows.", "  rows  3", "Warning: odd", "Next: look",
        "file 2: table. 3 rows.", "  rows  3", "Next: look", "x: cannot be read: broken",
    ]  # fmt: skip


def test_many_files_are_a_line_each_and_a_warning_once():
    findings = [found(number, "odd", usable=number > 0) for number in range(MANY)] + [found(MANY, "rare")]
    lines = list(FolderFindings(findings=findings, unreadable={"x": "broken"}).lines())
    assert lines[0] == "file 0: table. 3 rows. Not usable."
    assert lines[MANY + 1 :] == [
        f"Warning: {MANY} files: odd",
        f"Warning: file {MANY}: rare",
        "x: cannot be read: broken",
        f"{MANY + 2} files, {MANY} usable. Inspect one of them for its details, or give --json.",
    ]


def test_files_that_cannot_be_read_are_named_and_none_at_all_is_an_error(tmp_path):
    def examine(file):
        if file.stem == "bad":
            raise UserError("it is cut", "copy it again")
        return found(int(file.stem))

    files = [tmp_path / "1.csv", tmp_path / "sub" / "bad.csv", tmp_path / "2.csv"]
    folder = examine_files(tmp_path, files, examine)
    assert [each.title for each in folder.findings] == ["file 1", "file 2"]
    assert folder.unreadable == {"sub/bad.csv": "it is cut"}
    assert folder.code == 1
    with pytest.raises(UserError, match="none of its 1 files can be read") as error:
        examine_files(tmp_path, files[1:2], examine)
    assert error.value.hint == "sub/bad.csv: it is cut"


def test_a_number_goes_with_its_noun():
    assert counted(1, "box", "boxes") == "1 box"
    assert counted(0, "box", "boxes") == "0 boxes"
    assert counted(1200, "image") == "1,200 images"
