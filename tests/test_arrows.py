"""Which way packages may depend on each other: a domain on the two cores, the cores on nothing of ours, no domain on another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {path.name for path in ROOT.glob("packages/*") if (path / "pyproject.toml").is_file()}
CORES = {name for name in PACKAGES if name.startswith("core_")}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_follow_the_arrows(package):
    allowed = {package} | (set() if package in CORES else CORES)
    for path in (ROOT / "packages" / package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.partition(".")[0]
                assert top not in PACKAGES - allowed, f"{path.relative_to(ROOT)} imports {name}"
