"""The built wheels install together, alone and with the lowest versions that their metadata allows."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv (pip install uv)")]


def uv(*arguments: object) -> str:
    end = subprocess.run(["uv", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert end.returncode == 0, end.stderr[-3000:]
    return end.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    uv("build", "--all-packages", "--wheel", "--out-dir", folder)
    found = sorted(folder.glob("*.whl"))
    assert len(found) == len(list(ROOT.glob("packages/*/pyproject.toml")))
    return found


def scripts(environment: Path) -> Path:
    return environment / ("Scripts" if sys.platform == "win32" else "bin")


def test_one_domain_alone(wheels, tmp_path):
    """core_runtime without torch: its command starts and says that no domain is installed."""
    uv("venv", tmp_path / "env", "--python", sys.executable)
    uv("pip", "install", "--python", tmp_path / "env", *[w for w in wheels if "core_runtime" in w.name])
    end = subprocess.run([scripts(tmp_path / "env") / "attention-suite", "list"], capture_output=True, text=True)
    assert end.returncode == 0, end.stderr


def requirements() -> list[str]:
    """What the packages ask for beside each other, and what their tests do."""
    found = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"])
    for file in ROOT.glob("packages/*/pyproject.toml"):
        found.update(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    return sorted(r for r in found if not r.startswith("attention-suite-"))


def test_lowest_versions(wheels, tmp_path):
    """All packages' tests pass with the lowest version of everything that they ask for (without the development pins)."""
    python = scripts(tmp_path / "env") / "python"
    uv("venv", tmp_path / "env", "--python", sys.executable)
    lowest = ["--no-config", "--resolution", "lowest-direct"]
    uv("pip", "install", "--python", python, *lowest, *wheels, *requirements())
    # without jaxtyping's hook, which is a tool of development: what it can check differs from version to version
    options = ["-o", "addopts=-n 2 --import-mode=importlib -q", "-m", "not slow and not gpu", "-p", "no:cacheprovider"]
    end = subprocess.run(
        [python, "-m", "pytest", ROOT / "packages", "-c", ROOT / "pyproject.toml", *options, "-W", "default"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert end.returncode == 0, end.stdout[-5000:]


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_core_alone_on_the_oldest_and_on_the_newest_torch(wheels, resolution, tmp_path):
    """The core's wheel and its quick tests, in an environment of its own; the outcome stands in the package's README."""
    python = scripts(tmp_path / "env") / "python"
    (wheel,) = [w for w in wheels if "core_attention" in w.name]
    core = tomllib.loads((ROOT / "packages" / "core_attention" / "pyproject.toml").read_text(encoding="utf-8"))
    peers = [*core["project"]["dependencies"], "pytest>=8.4", "beartype>=0.20", "timm>=1.0.15", "transformers>=5.20"]
    uv("venv", tmp_path / "env", "--python", sys.executable)
    uv("pip", "install", "--python", python, "--no-config", "--resolution", resolution, wheel, *peers)
    options = ["-o", "addopts=--import-mode=importlib -q", "-m", "not slow and not gpu", "-p", "no:cacheprovider"]
    folder = ROOT / "packages" / "core_attention" / "tests"
    end = subprocess.run(
        [python, "-m", "pytest", folder, "-c", ROOT / "pyproject.toml", *options, "-W", "default"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert end.returncode == 0, end.stdout[-5000:]
