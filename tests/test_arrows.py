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


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_files_import_each_other_in_a_circle(package):
    assert not circles_of(imports_of(ROOT / "packages" / package / "src"))


def test_a_circle_is_found_also_through_a_lazy_import(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").touch()
    (tmp_path / "toy" / "a.py").write_text("from toy import b\n")
    (tmp_path / "toy" / "b.py").write_text("def f():\n    from toy.c import g\n")
    (tmp_path / "toy" / "c.py").write_text("import toy.a\n")
    (tmp_path / "toy" / "d.py").write_text("if TYPE_CHECKING:\n    import toy.e\n")
    (tmp_path / "toy" / "e.py").write_text("import toy.d\n")
    assert circles_of(imports_of(tmp_path)) == {frozenset({"toy.a", "toy.b", "toy.c"})}


def imports_of(sources: Path) -> dict[str, set[str]]:
    """Which files import which; imports inside functions count, those for type checkers do not."""
    modules = {}
    for path in sources.rglob("*.py"):
        parts = path.relative_to(sources).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_checkers = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                for inner in ast.walk(node):
                    for_checkers.add(id(inner))
        imported = set()
        for node in ast.walk(tree):
            if id(node) in for_checkers:
                continue
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = (imported & modules.keys()) - {name}
    return graph


def circles_of(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The groups of files that reach one another."""
    reach = {name: reachable(graph, name) for name in graph}
    circles = set()
    for name in graph:
        group = frozenset(other for other in reach[name] if name in reach[other])
        if len(group) > 1:
            circles.add(group)
    return circles


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All files that `start` imports, directly or through others."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph[waiting.pop()] - reached
        reached |= fresh
        waiting += fresh
    return reached


def test_every_trained_model_records_the_options_of_its_run():
    """`open_run` returns what may go with the model: a `train` that drops it makes models that do not know how they were made."""
    dropped = []
    for path in ROOT.glob("packages/*/src/**/commands/train.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "open_run":
                dropped.append(str(path.relative_to(ROOT)))
    assert not dropped
