"""All published systems, who holds them, and what verify showed here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

EXAMPLE = "core-attention list"


def add_options(parser: argparse.ArgumentParser) -> None:
    """`list` has no options of its own."""


def run(*, as_json: bool) -> int:
    from core_attention.commands.listing import failed_lines, systems_table
    from core_attention.measuring.clock import table
    from core_attention.registry.catalogue import declared

    rows = systems_table()
    mechanisms = declared("examples")
    if as_json:
        pages = {name: {"slug": entry.slug, "page": entry.page} for name, entry in mechanisms.items()}
        print(json.dumps({"systems": rows, "mechanisms": pages}, indent=1))
        return 0
    print(table([_line(row) for row in rows]))
    for row in rows:
        for entry, why in row["failures"].items():
            print(f"{row['slug']}: {entry} could not be imported: {why}", file=sys.stderr)
        for line in failed_lines(row):
            print(line)
    print(f"\nmechanisms (core-attention show NAME, bench NAME): {', '.join(mechanisms)}")
    return 0


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A system as a line of the table."""
    held = 0
    passed, failed = [], []
    for key, part in row["components"].items():
        if not part["distribution"]:
            continue
        held += 1
        if part["verified"]:
            if part["verified"]["ok"]:
                passed.append(part["verified"]["date"][:10])
            else:
                failed.append(key)
    state = ""
    if passed:
        state = f"{len(passed)} of {held}, {min(passed)}"
    elif held:
        state = "no run here"
    if failed:
        state += f"; failed: {', '.join(failed)}"
    return {
        "system": row["slug"],
        "year": row.get("year", ""),
        "components": f"{held} of {len(row['components'])}",
        "held by": ", ".join(row["distributions"]) or "not in this installation",
        "verified": state,
    }
