"""The pages of the documentation, which come with the package.

Without a name it lists them, with one it prints that page.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
from pathlib import Path

from core_attention.commands.frame import Refusal

EXAMPLE = "core-attention docs pretrained"
FOLDER = Path(__file__).parents[1] / "docs"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", nargs="?", help="a page, as the list or a link spells it: attention, mechanisms/rala")


def run(page: str | None, *, as_json: bool) -> int:
    pages = {_name(path): path for path in sorted(FOLDER.rglob("*.md"))}
    if not pages:
        raise Refusal(
            f"{FOLDER} holds no pages: this copy of the package was made without them; install the wheel, or read docs/ of the repository"
        )
    if page is None:
        _print_list(pages, as_json=as_json)
        return 0
    path = _find(page, pages)
    text = path.read_text(encoding="utf-8")
    if as_json:
        name = _name(path) if path.is_relative_to(FOLDER) else page
        print(json.dumps({"page": name, "path": str(path), "text": text}, indent=1))
    else:
        print(text, end="")
    return 0


def _name(path: Path) -> str:
    """A page's name: its path below the folder; a folder's README has the folder's name."""
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    return name.removesuffix("/README")


def _print_list(pages: dict[str, Path], *, as_json: bool) -> None:
    titles = {name: _title(path) for name, path in pages.items()}
    if as_json:
        print(json.dumps([{"page": name, "title": titles[name], "path": str(pages[name])} for name in pages], indent=1))
        return
    width = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")
    print(f"\ncore-attention docs PAGE prints one; they lie in {FOLDER}")


def _title(path: Path) -> str:
    """The first heading of a page."""
    with path.open(encoding="utf-8") as lines:
        return next((line.strip("# \n") for line in lines if line.startswith("#")), "")


def path_of(page: str) -> Path | None:
    """Where the page lies that a `System` declares: under ``docs/mechanisms``, or, as ``module:path``, beside a module of its own package."""
    if ":" not in page:
        path = FOLDER / "mechanisms" / page
    else:
        module, _, below = page.partition(":")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / below
    return path if path.is_file() else None


def _find(asked: str, pages: dict[str, Path]) -> Path:
    """The page asked for: by its name, as a link writes it (``../../docs/capture.md``), by its last part, or by a mechanism as `list` names it."""
    _, _, below = asked.rpartition("docs/")
    asked_for = below.removesuffix(".md").removesuffix("/README")
    if asked_for in pages:
        return pages[asked_for]
    ends = [name for name in pages if name.rpartition("/")[2] == asked_for]
    if len(ends) > 1 and f"mechanisms/{asked_for}" in ends:
        return pages[f"mechanisms/{asked_for}"]
    if not ends and (of_mechanism := path_of(_page_of_mechanism(asked_for))) is not None:
        return of_mechanism
    if len(ends) > 1:
        raise Refusal(f"{asked!r} is the name of several pages: {', '.join(ends)}")
    if not ends:
        nearest = difflib.get_close_matches(asked_for, pages, n=1, cutoff=0.5)
        hint = "".join(f"; did you mean {name}?" for name in nearest)
        raise Refusal(f"{asked!r} is not a page{hint or '.'} `core-attention docs` lists them")
    return pages[ends[0]]


def _page_of_mechanism(name: str) -> str:
    """The page that describes a mechanism or a system; "" where there is none."""
    from core_attention.registry import catalogue, systems

    page = None
    if name in systems.slugs():
        page = systems.system(name).page
    elif (entry := catalogue.find("examples", name)) is not None:
        page = entry.page
    return page or ""
