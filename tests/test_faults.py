"""The lists of faults that tests must notice (`scripts/mutants.py --listed`) follow the code."""

import tomllib
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[1] / "packages"


@pytest.mark.parametrize("path", sorted(PACKAGES.glob("*/tests/faults.toml")), ids=lambda path: path.parents[1].name)
def test_every_listed_fault_stands_once_in_its_file(path):
    package = path.parents[1]
    moved = []
    for fault in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
        source = package / "src" / package.name / fault["file"]
        if not source.is_file() or source.read_text(encoding="utf-8").count(fault["before"]) != 1:
            moved.append(f"{fault['file']}: {fault['what']}")
        assert fault["before"] != fault["after"], fault["what"]
    assert not moved, "the code has changed: write its new lines into faults.toml"
