"""A domain made from the template passes every conformance test at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


def make(*arguments):
    from new_domain import make_domain

    return make_domain(*arguments)


@pytest.mark.parametrize(
    ("name", "question"), [("Bad-Name", "?"), ("class", "?"), ("good", 'a "quote"'), ("good", ""), ("taken", "?")]
)
def test_names_that_cannot_be(tmp_path, name, question):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match=r"name|question|already"):
        make(name, question, tmp_path)


def test_a_new_domain_passes_the_conformance_tests(tmp_path):
    package = make("crystal_defects", "Which crystals are cracked, and where?", tmp_path)
    assert not [p for p in package.rglob("*.py*") if "newdomain" in p.read_text() + p.name]
    source = package / "src"
    # what an installation would leave: metadata with the entry points, found through the path
    metadata = source / "attention_suite_crystal_defects-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: attention-suite-crystal-defects\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[attention_suite.domains]\ncrystal-defects = crystal_defects.domain:domain\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(source)}
    for options in (["tests/test_commands.py", "-k", "crystal-defects"], [str(package / "tests")]):
        end = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *options],
            env=environment,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert end.returncode == 0, end.stdout[-4000:] + end.stderr[-2000:]
        assert " passed" in end.stdout
