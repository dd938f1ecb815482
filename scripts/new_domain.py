"""Makes a new domain package from templates/newdomain: a complete small domain under your name, registered in the workspace.

Example: uv run python scripts/new_domain.py crystal_defects "Which crystals are cracked, and where?"
"""

import argparse
import keyword
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_domain(name: str, question: str, packages: Path, template: Path = ROOT / "templates" / "newdomain") -> Path:
    """Copies the template to ``packages/NAME`` with its names and question replaced.

    Raises:
        ValueError: not a package name, taken, or a question that cannot stand in a string.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} is not a package name: small letters, digits and underscores, as in crystal_defects"
        )
    if '"' in question or "\\" in question or "\n" in question or not question:
        raise ValueError("the question is one line without double quotes or backslashes")
    target = packages / name
    if target.exists():
        raise ValueError(f"{target} is already there")
    command = name.replace("_", "-")
    for source in sorted(template.rglob("*")):
        if source.is_dir() or "__pycache__" in source.parts:
            continue
        path = target / str(source.relative_to(template)).replace("newdomain", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8").replace("NEWQUESTION", question)
        # imports, modules and folders take the package's name; what a person types takes the command's
        text = re.sub(
            r"(from|import) newdomain\b|newdomain(?=[.:]\w+[.:\w]*)",
            lambda m: m.group().replace("newdomain", name),
            text,
        )
        for imported in ('packages = ["src/newdomain"]', 'package="newdomain"'):
            text = text.replace(imported, imported.replace("newdomain", name))
        text = text.replace("newdomain", command)
        path.write_text(text, encoding="utf-8")
    return target


def register(name: str, root: Path = ROOT) -> None:
    """Adds the new package to the workspace root's dependencies and sources, and to the import order's own packages."""
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    distribution = f"attention-suite-{name.replace('_', '-')}"
    text = text.replace("dependencies = [\n", f'dependencies = [\n    "{distribution}",\n', 1)
    text = text.replace("[tool.uv.sources]\n", f"[tool.uv.sources]\n{distribution} = {{ workspace = true }}\n", 1)
    text = text.replace("known-first-party = [", f'known-first-party = ["{name}", ', 1)
    path.write_text(text, encoding="utf-8")


RUFF = ("uv", "run", "--group", "lint", "ruff")


def sort_imports(target: Path, root: Path = ROOT, ruff: Sequence[str] = RUFF) -> None:
    """Imports in their order and lines in their length under the new name: where `aerosols` stands among them, `newdomain` did not."""
    for arguments in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        subprocess.run([*ruff, *arguments, str(target)], cwd=root, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="import name, as in crystal_defects")
    parser.add_argument("question", help="the question that the domain answers, in one line")
    arguments = parser.parse_args()
    try:
        target = make_domain(arguments.name, arguments.question, ROOT / "packages")
    except ValueError as error:
        sys.exit(f"Error: {error}")
    register(arguments.name)
    sort_imports(target)
    command = arguments.name.replace("_", "-")
    tests = f"pytest tests {target.relative_to(ROOT)} -k '{command} or {arguments.name}'"
    print(f"{target} is made. Next: uv sync && uv run {command} demo /tmp/{command} && uv run {tests}")


if __name__ == "__main__":
    main()
