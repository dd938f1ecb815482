"""What the verbs print: facts for programs, lines for people, an exit status."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_runtime.bulk import Outcome, summary
from core_runtime.cli import Result, note
from core_runtime.errors import UserError
from core_runtime.folders import writing
from ieeg.recordings.bids import Found
from ieeg.commands.inspect import Inspected
from ieeg.commands.evaluate import table, unfair
from ieeg.model.folder import RESEARCH_ONLY


def inspected(made: Inspected, picture: Path | None = None) -> Result:
    """Of `inspect`."""
    if picture is not None and made.found:
        kind = picture.suffix.lower().removeprefix(".") or "png"
        if kind not in ("png", "svg", "pdf"):
            raise UserError(f"--picture {picture}: pictures are .png, .svg or .pdf", "choose such a name")
        figure = made.found[0].picture()
        with writing(picture) as part:
            figure.savefig(part, format=kind, dpi=110)

    def show() -> None:
        for each in made.found:
            print(f"{each.recording.path.name}: {'not usable: ' + each.problem if each.problem else 'usable'}")
            for name, value in each.rows:
                print(f"  {name:13} {value}")
            for warning in each.warnings:
                print(f"  Warning: {warning}")
        if picture is not None and made.found:
            print(f"Picture: {picture}")
        for name, why in made.unreadable.items():
            note.print(f"cannot be read: {name}: {why}", style="yellow", markup=False, soft_wrap=True)

    facts = [each.facts() for each in made.found]
    unreadable = [{"recording": n, "usable": False, "problem": why} for n, why in made.unreadable.items()]
    whole = [*facts, *unreadable]
    return Result(whole[0] if len(whole) == 1 else whole, show, 1 if made.unreadable else 0)


def detected(found: Sequence[Found], outcomes: Sequence[Outcome], out: Path) -> Result:
    """Of `detect`.

    Raises:
        UserError: the only recording failed.
    """
    if len(outcomes) == 1 and not outcomes[0].ok:
        raise UserError(outcomes[0].message or outcomes[0].status)
    made: list[dict[str, Any]] = []
    for each, outcome in zip(found, outcomes, strict=True):
        if outcome.ok:
            facts = json.loads((out / each.name / "detection.json").read_text(encoding="utf-8"))
            made.append({**facts, "folder": str(out / each.name)})

    def show() -> None:
        for facts in made:
            events = facts["events"]
            print(f"{Path(facts['recording']).name}: {len(events)} event{'' if len(events) == 1 else 's'}")
            for e in events[:20]:
                first = ", ".join(c["channel"] for c in e["earliest_channels"][:4])
                print(
                    f"  {e['onset']:9.1f} s  {e['duration']:6.1f} s  confidence {e['confidence']:.2f}"
                    + (f"  first: {first}" if first else "")
                )
            for line in facts["notes"]:
                print(f"  {line}")
            print(f"  {facts['folder']}")
        print(RESEARCH_ONLY)

    code = summary(outcomes)
    return Result({"detections": made, "failed": {o.name: o.message for o in outcomes if not o.ok}}, show, code)


def evaluated(result: Mapping[str, Any], out: Path) -> Result:
    """Of `evaluate`."""

    def show() -> None:
        if warned := unfair(result):
            note.print(warned, style="bold red", markup=False, soft_wrap=True)
        print(
            f"{result['recordings']} recordings of {result['subjects']} subjects, {result['seizures']} seizures, {result['hours']:.1f} h"
        )
        print(f"{'':38} {'mean':>10} {'95 %':>18} {'pooled':>10} {'95 %':>18}")
        for words, mean, interval, pooled, pooled_interval in table(result):
            print(f"{words:38} {mean:>10} {interval:>18} {pooled:>10} {pooled_interval:>18}")
        for name, m in result.get("against", {}).get("measures", {}).items():
            print(
                f"against the second: {name} differs by {m['difference']:+.3f}, p = {m['p']:.3f} ({m['subjects']} subjects)"
            )
        for name, why in result["left_out"].items():
            note.print(f"left out: {name}: {why}", style="yellow", markup=False, soft_wrap=True)
        print(RESEARCH_ONLY)
        print(f"Report: {out / 'report.html'}")

    return Result({**result, "report": str(out / "report.html")}, show)
