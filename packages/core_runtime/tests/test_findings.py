"""What `inspect` says of a folder."""

from core_runtime.findings import MANY, Findings, FolderFindings


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
