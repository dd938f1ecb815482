"""What is published, what this installation holds of it, and what runs of ``verify`` on this machine showed."""

import json
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata, resources
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_attention.registry import systems
from core_attention.registry.systems import Paper

if TYPE_CHECKING:
    from core_attention.golden.replay import Result


_RECORD = {"component", "case", "status", "date", "device", "versions", "config", "parameters"}


def undeclared_papers() -> dict[str, Paper]:
    """The published systems that no package declares yet (``papers.toml``), by slug."""
    text = resources.files("core_attention.registry").joinpath("papers.toml").read_text(encoding="utf-8")
    return {slug: Paper(**facts) for slug, facts in tomllib.loads(text).items()}


def papers() -> dict[str, Paper]:
    """Every published system that is declared or planned, by slug; imports all declarations."""
    known = undeclared_papers()
    for slug, parts in _by_slug().items():
        paper = systems.merged(slug, parts).paper
        if paper is not None:
            known[slug] = paper
    return known


def systems_table(only: str | None = None) -> list[dict[str, Any]]:
    """All published systems, or one, with their components: who holds each, and what a recorded run of `verify` showed.

    Imports the packages that register components; one that fails is named under ``failures`` with the reason.
    """
    undeclared = undeclared_papers()
    by_slug = _by_slug()  # one look at what is installed: it reads the metadata of every distribution
    rows = []
    for slug in sorted({*undeclared, *by_slug}) if only is None else [only]:
        parts = by_slug.get(slug, [])
        holders, failures = _holders(parts)
        paper = systems.merged(slug, parts).paper or undeclared.get(slug)
        row: dict[str, Any] = {"slug": slug}
        known = set(holders)
        if paper is not None:
            known |= set(paper.components)
            row |= {name: value for name, value in vars(paper).items() if name != "components" and value is not None}
        components = {}
        for key in sorted(known, key=str.lower):
            components[key] = {"distribution": holders.get(key), "verified": verified(slug, key)}
        row["distributions"] = sorted(set(holders.values()))
        row["components"] = components
        row["failures"] = failures
        rows.append(row)
    return rows


def holders_of(slug: str) -> tuple[dict[str, str], dict[str, str]]:
    """The distribution that holds each component of a system, and the entry points that could not be imported."""
    return _holders(systems.entries(slug))


def _by_slug() -> dict[str, list[EntryPoint]]:
    by_slug: dict[str, list[EntryPoint]] = {}
    for entry in systems.entries():
        by_slug.setdefault(entry.name, []).append(entry)
    return by_slug


def _holders(entries: Iterable[EntryPoint]) -> tuple[dict[str, str], dict[str, str]]:
    holders: dict[str, str] = {}
    failures: dict[str, str] = {}
    for entry in entries:
        part, failure = systems.load_entry(entry)
        if part is None:
            failures[entry.value] = failure
        else:
            holders |= dict.fromkeys(part.components, systems.distribution_of(entry))
    return holders, failures


def record(results: Iterable["Result"], *, device: str) -> None:
    """Keeps what a run of `verify` showed of each case, in this user's state folder.

    Raises:
        OSError: the folder cannot be written.
    """
    known, holders = systems.slugs(), {}
    for result in results:
        if result.system not in known or result.status == "unknown":
            continue
        if result.system not in holders:
            holders[result.system], _ = holders_of(result.system)
        row = {
            "component": result.component,
            "case": result.path.stem,
            "status": result.status,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "device": device,
            "versions": versions(holders[result.system].get(result.component)),
            "config": result.config,
            "parameters": result.parameters,
        }
        place = _state_folder() / result.system / f"{result.path.stem}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f".{place.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(row, default=str), encoding="utf-8")
        unfinished.replace(place)


def recorded(slug: str, component: str) -> list[dict[str, Any]]:
    """The recorded results of a component's cases; what cannot be read is left out."""
    found = []
    for path in sorted((_state_folder() / slug).glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(row, dict) and row.get("component") == component and row.keys() >= _RECORD:
            found.append(row)
    return found


def verified(slug: str, component: str) -> dict[str, Any] | None:
    """What the recorded runs showed of one component: ``ok`` only if every case that ran passed, with the oldest date.

    None if no case of it was ever run here.
    """
    rows = [row for row in recorded(slug, component) if row["status"] != "skipped"]
    if not rows:
        return None
    oldest = min(rows, key=lambda row: row["date"])
    failed = [row["case"] for row in rows if row["status"] != "ok"]
    summary = {"ok": not failed, "cases": len(rows)}
    summary |= {key: oldest[key] for key in ("date", "device", "versions", "config", "parameters")}
    return summary | ({"failed": failed} if failed else {})


def versions(distribution: str | None) -> dict[str, str]:
    """The versions that a result depends on: of Python, torch, this package and the distribution that holds the component."""
    found = {"python": platform.python_version()}
    for name in ("torch", "attention-suite-core-attention", distribution):
        with suppress(metadata.PackageNotFoundError):
            found |= {name: metadata.version(name)} if name else {}
    return found


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "core-attention" / "verified"


def paper_line(paper: Mapping[str, Any]) -> str:
    """Repository and licence for people."""
    name = paper.get("repository")
    line = f"{name} ({paper.get('licence')})" if name else "no published code"
    return line + (f"; {paper['also']}" if paper.get("also") else "")
