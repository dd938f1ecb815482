"""The options and the printing that every benchmark here has; what they measure with is `core_attention.measuring.clock`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from core_attention.measuring.clock import Times, paired, peak_memory, ratio, size, table

__all__ = ["Times", "paired", "parser", "peak_memory", "ratio", "show", "size", "table"]


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    made.add_argument("--rounds", type=int, default=7, help="paired rounds (default 7)")
    made.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    return made


def show(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Prints measured rows as a table, or as one line of JSON."""
    print(json.dumps({"title": title, "rows": list(rows)}) if as_json else f"\n{title}\n{table(rows)}", flush=True)
