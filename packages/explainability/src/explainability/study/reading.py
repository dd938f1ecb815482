"""Decisions of people who accepted or rejected what a model said: tables, and logs in JSON lines."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.tables import Table, read_table

PARTICIPANT = ("UID", "participant", "username", "user")
METHOD = ("Method", "method", "condition")
CORRECT = ("Correctness", "correct")
MODEL_RIGHT = ("ClassifierCorrectness", "model_right", "ai_right")


@dataclass(frozen=True)
class Decision:
    """One trial.

    Attributes:
        participant: who decided.
        method: what was shown.
        correct: whether the decision was right: accepted where the model was right, rejected where it was wrong.
        model_right: whether the model was right.
    """

    participant: str
    method: str
    correct: bool
    model_right: bool


@dataclass(frozen=True)
class Study:
    """The trials of a study.

    Attributes:
        decisions: of all trials that are used.
        notes: what the user should know of the file.
    """

    decisions: Sequence[Decision]
    notes: Sequence[str]

    @property
    def methods(self) -> list[str]:
        """What was shown, by name."""
        return sorted({decision.method for decision in self.decisions})


def read_study(path: Path, *, method: str = "interactive") -> Study:
    """Reads a study.

    Args:
        path: a table with a row per trial, or JSON lines of CHM-Corr++'s tool.
        method: name of what was shown, where the file does not say (JSON lines).

    Raises:
        UserError: no such file, columns or values that are not understood (the row is named), or a participant who saw several methods.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give a CSV with a row per trial, or JSON lines of decisions")
    if path.suffix.lower() in (".jsonl", ".json"):
        decisions, notes = _read_lines(path, method), []
    else:
        table = read_table(path)
        decisions, left_out = _read_rows(table, path)
        notes = [f"{left_out} rows without a participant are left out"] if left_out else []
    if not decisions:
        raise UserError(f"{path} holds no decisions")
    methods: dict[str, set[str]] = {}
    for decision in decisions:
        methods.setdefault(decision.participant, set()).add(decision.method)
    several = [participant for participant, shown in methods.items() if len(shown) > 1]
    if several:
        raise UserError(
            f"{path}: {len(several)} participants saw more than one method, the first is {several[0]}",
            "the tests are between participants, each of whom saw one method",
        )
    trials = Counter(Counter(decision.participant for decision in decisions).values())
    if len(trials) > 1:
        counts = ", ".join(f"{count} trials by {people}" for count, people in sorted(trials.items()))
        notes.append(f"participants have unequal numbers of trials ({counts}); each participant counts once in tests")
    return Study(decisions, notes)


def _read_rows(table: Table, path: Path) -> tuple[list[Decision], int]:
    # `column` raises where the table has none of the names
    who, shown, correct, right = (str(table.column(*names)) for names in (PARTICIPANT, METHOD, CORRECT, MODEL_RIGHT))
    decisions, left_out = [], 0
    for row in table:
        participant, method = row[who], row[shown]
        if not participant:
            left_out += 1
            continue
        if not method:
            raise UserError(f"{path}, line {row.line}: no method", "say what the participant was shown")
        flags = []
        for column in (correct, right):
            if row[column] not in ("0", "1", "0.0", "1.0"):
                raise UserError(f"{path}, line {row.line}: {column} is {row[column]!r}", "it is 1 (right) or 0 (wrong)")
            flags.append(row[column] in ("1", "1.0"))
        decisions.append(Decision(participant, method, flags[0], flags[1]))
    return decisions, left_out


def _read_lines(path: Path, method: str) -> list[Decision]:
    decisions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record: dict[str, Any] = json.loads(line)
            user = str(record["username"])
            label = record["ai-prediction"]["label"]
            accepted = {"accept": True, "reject": False}[str(record["decision"]).lower()]
            right = label == record["gt-label"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a decision ({type(error).__name__}: {error})",
                "a decision has username, gt-label, ai-prediction.label, decision (Accept or Reject)",
            ) from None
        decisions.append(Decision(user, str(record.get("method", method)), accepted == right, right))
    return decisions
