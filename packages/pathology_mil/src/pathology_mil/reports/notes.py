"""Notes of bulk work on slides, for the terminal. Imports nothing heavy."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from core_runtime.bulk import Attempt
from core_runtime.terminal import warn


def slide_facts(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """The result for each slide, for programs."""
    rows = []
    for attempt in attempts:
        rows.append({"slide_id": attempt.name, "status": attempt.status, "message": attempt.message, **attempt.facts})
    return rows


def counts(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Slides by status, and regions that could not be decoded."""
    return {
        "status": dict(Counter(attempt.status for attempt in attempts)),
        "bad_regions": sum(map(_bad_regions, attempts)),
    }


def _bad_regions(attempt: Attempt) -> int:
    # tiling counts regions, encoding counts tiles
    return attempt.facts.get("bad_tiles", 0) or attempt.facts.get("bad_regions", 0)


def note_lines(attempts: Sequence[Attempt]) -> Iterable[str]:
    """Each kind of note once, with the number of slides that it concerns."""
    notes: Counter[str] = Counter()
    for attempt in attempts:
        notes.update(attempt.facts.get("notes", ()))
    for text, count in notes.most_common(8):
        slides = "1 slide" if count == 1 else f"{count} slides"
        yield f"  note ({slides}): {text}"
    if bad := sum(map(_bad_regions, attempts)):
        where = ", ".join(attempt.name for attempt in attempts if _bad_regions(attempt))
        warn(f"{bad} regions could not be decoded and were taken as background: {where}")
