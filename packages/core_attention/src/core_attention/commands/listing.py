"""What is published, what this installation holds of it, and what runs of ``verify`` on this machine showed: facts of `list` and `show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from core_attention.golden.history import verified
from core_attention.registry import systems


def systems_table(only: str | None = None) -> list[dict[str, Any]]:
    """All published systems, or one, with their components: who holds each, and what a recorded run of `verify` showed.

    Imports the packages that register components; one that fails is named under ``failures`` with the reason.
    """
    by_slug = systems.entries_by_slug()  # one look at what is installed: it reads the metadata of every distribution
    if only is None:
        slugs = sorted(by_slug)
    else:
        slugs = [only]
    return [_row(slug, by_slug.get(slug, [])) for slug in slugs]


def _row(slug: str, entries: list[EntryPoint]) -> dict[str, Any]:
    """A system: its slug, the facts of its paper, and its components."""
    whole = systems.merged(slug, entries)
    holders = systems.holders(entries)
    paper = whole.paper
    keys = set(holders)
    row: dict[str, Any] = {"slug": slug}
    if paper is not None:
        keys |= set(paper.components)
        row |= {name: value for name, value in vars(paper).items() if name != "components" and value is not None}
    components = {}
    for key in sorted(keys, key=str.lower):
        components[key] = {"distribution": holders.get(key), "verified": verified(slug, key)}
    # who declares a part of it, also where the part has no component of its own
    row["distributions"] = sorted({systems.distribution_of(e) for e in entries if e.value not in whole.failures})
    row["components"] = components
    row["failures"] = dict(whole.failures)
    return row


def failed_lines(row: Mapping[str, Any]) -> Iterator[str]:
    """A line for each case that failed here: where it lay, when, and with which versions."""
    for key, part in row["components"].items():
        shown = part["verified"]
        if shown is None or shown["ok"]:
            continue
        for case in shown["failed"]:
            versions = ", ".join(f"{name} {version}" for name, version in case["versions"].items() if name != "python")
            folder = case["folder"] or "a folder that was not recorded"
            yield f"{row['slug']}/{key}: {case['case']} of {folder} failed on {case['date'][:10]} ({versions})"


def paper_line(paper: Mapping[str, Any]) -> str:
    """Repository and licence, for a reader."""
    repository = paper.get("repository")
    line = "no published code"
    if repository:
        line = f"{repository} ({paper.get('licence')})"
    if paper.get("also"):
        line += f"; {paper['also']}"
    return line
