"""How measures are printed. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any


def judgement_lines(name: str, rows: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    parts = [f"NMI {rows['nmi']['value']:.3f} ± {rows['nmi']['sd']:.3f}"]
    for key in ("recall@1", "recall@4", "map@r"):
        if key in rows:
            parts.append(f"{key} {rows[key]['value']:.3f} ({rows[key]['low']:.3f} to {rows[key]['high']:.3f})")
    return f"  {name:22} {', '.join(parts)}"
