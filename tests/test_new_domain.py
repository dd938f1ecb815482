"""A domain made from the template passes every conformance test at once."""

import json
import os
import subprocess
import sys
import tomllib
from functools import partial
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
    """Those of commands and those of components: its `declaration.py` is found by its entry point, and its golden case is replayed."""
    package = make("crystal_defects", "Which crystals are cracked, and where?", tmp_path)
    assert not [p for p in package.rglob("*.py*") if "newdomain" in p.read_text() + p.name]
    install(package)
    # the first golden case of the new component, as its author would record it
    golden = package / "tests" / "golden"
    case = golden / "crystal-defects" / "burst.json"
    case.parent.mkdir(parents=True)
    arguments = [
        "crystal-defects",
        "BurstClassifier",
        case,
        "--config",
        '{"window": 8, "width": 4}',
        "--input",
        "windows=2,3,8",
    ]
    environment = os.environ | {"PYTHONPATH": str(package / "src"), "GOLDEN_CASES": str(golden)}
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    run = partial(subprocess.run, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    recorded = run([sys.executable, "-m", "core_attention.cli", "record", *map(str, arguments)])
    assert recorded.returncode == 0, recorded.stderr

    # one process for all; compiling is the same for every component and slow, so that it stays with those of this repository
    tests = ["tests/test_commands.py", "tests/test_components.py", str(package / "tests")]
    chosen = "(crystal-defects or crystal_defects) and not compiled"
    end = run([sys.executable, "-m", "pytest", "-n", "0", "-rp", "-p", "no:cacheprovider", "-k", chosen, *tests])
    assert end.returncode == 0, end.stdout[-4000:] + end.stderr[-2000:]
    passed = [line for line in end.stdout.splitlines() if line.startswith("PASSED")]
    for test in (
        "test_demo_runs[crystal-defects]",
        "test_every_component_can_be_imported_and_has_a_committed_case[crystal-defects]",
        "test_committed_case_passes[crystal-defects-burst]",
        "test_every_parameter_has_a_finite_gradient_that_is_not_zero[crystal-defects-burst]",
        "test_samples_read_back",
    ):
        assert any(test in line for line in passed), f"{test} did not run or pass"


@pytest.mark.parametrize("name", ["aerosols", "zeolites"])  # before and after the packages that it imports
def test_a_new_domain_is_sorted_whatever_its_name(tmp_path, name):
    from new_domain import register, sort_imports

    pytest.importorskip("ruff", reason="needs the group lint: uv run --group lint pytest")
    (tmp_path / "packages").mkdir()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    package = make(name, "What is in the air?", tmp_path / "packages")
    register(name, tmp_path)
    sort_imports(package, tmp_path, [sys.executable, "-m", "ruff"])
    for arguments in (["check"], ["format", "--check"]):
        end = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--no-cache", package],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert end.returncode == 0, end.stdout


@pytest.mark.slow
def test_types_of_a_new_domain(tmp_path):
    pytest.importorskip("pyright", reason="needs the group lint: uv run --group lint pytest")
    package = make("aerosols", "What is in the air?", tmp_path)
    sources = [str(path) for path in ROOT.glob("packages/*/src")]
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(package / "src"), *sources], "include": ["aerosols/src"]})
    )
    end = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0, end.stdout


def install(package: Path) -> None:
    """What an installation would leave: metadata with the entry points of its pyproject.toml, found through the path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    metadata = package / "src" / f"{project['name'].replace('-', '_')}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    groups = []
    for group, entries in project["entry-points"].items():
        groups.append(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items()))
    (metadata / "entry_points.txt").write_text("\n".join(groups))
