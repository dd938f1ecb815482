"""What runs of ``verify`` on this machine showed, kept in this user's state folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_attention.registry import systems

if TYPE_CHECKING:
    from core_attention.golden.replay import Result

_FIELDS = {"component", "case", "status", "date", "device", "versions", "config", "parameters"}


def record(results: Iterable[Result], *, device: str) -> None:
    """Keeps what a run of `verify` showed of each case.

    Raises:
        OSError: the folder cannot be written.
    """
    known, holders = systems.slugs(), {}
    for result in results:
        # a case may name any system, also one whose name leads out of the folder
        if result.system not in known or result.status == "unknown":
            continue
        if result.system not in holders:
            holders[result.system] = systems.holders(systems.entries(result.system))
        row = {
            "component": result.component,
            "case": result.path.stem,
            "folder": str(result.path.resolve().parent),
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
    rows = []
    for path in sorted((_state_folder() / slug).glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(row, dict) and row.get("component") == component and row.keys() >= _FIELDS:
            rows.append(row)
    return rows


def verified(slug: str, component: str) -> dict[str, Any] | None:
    """What the recorded runs showed of one component: ``ok`` only if every case that ran passed, with the oldest date.

    Returns:
        the summary; where a case failed also ``failed``, its name, folder, date and versions. None if no case was ever run here.
    """
    rows = [row for row in recorded(slug, component) if row["status"] != "skipped"]
    if not rows:
        return None
    oldest = min(rows, key=lambda row: row["date"])
    failed = []
    for row in rows:
        if row["status"] != "ok":
            # a record of an earlier release does not say where the case lay
            failed.append(
                {"case": row["case"], "folder": row.get("folder"), "date": row["date"], "versions": row["versions"]}
            )
    summary = {"ok": not failed, "cases": len(rows)}
    for field in ("date", "device", "versions", "config", "parameters"):
        summary[field] = oldest[field]
    if failed:
        summary["failed"] = failed
    return summary


def versions(distribution: str | None) -> dict[str, str]:
    """The versions that a result depends on: of Python, torch, this package and the distribution that holds the component."""
    by_name = {"python": platform.python_version()}
    for name in ("torch", systems.DISTRIBUTION, distribution):
        if name:
            with suppress(metadata.PackageNotFoundError):
                by_name[name] = metadata.version(name)
    return by_name


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "core-attention" / "verified"
