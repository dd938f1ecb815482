"""POPE: yes-or-no questions about objects (Li et al. 2023), in its two editions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.errors import UserError
from vision_language.items.lines import read_entries, refuse_repeats, text_of

Parser = Literal["strict", "published"]
EDITIONS = {2910: "older edition of the random file, 2,910 questions", 3000: "3,000 questions"}


@dataclass(frozen=True)
class Question:
    """One question and its answer, "yes" or "no"."""

    name: str
    image: str
    text: str
    label: str


@dataclass(frozen=True)
class Questions:
    """A question file and which edition it is."""

    path: Path
    questions: tuple[Question, ...]

    @property
    def edition(self) -> str:
        """By the number of questions; any other number is named as it is."""
        count = len(self.questions)
        return EDITIONS.get(count, f"{count:,} questions, neither published edition")

    def account(self) -> str:
        """What was read, in a sentence."""
        images = len({question.image for question in self.questions})
        return f"{self.edition} about {images} pictures"


def read_pope(path: Path) -> Questions:
    """A POPE file.

    Raises:
        UserError: unreadable, ids that repeat, or a label that is neither yes nor no.
    """
    questions = []
    for where, entry in read_entries(path, what="POPE's lines: question_id, image, text, label"):
        name = entry.get("question_id", entry.get("qid"))
        if name is None:
            raise UserError(f"{where} has no question_id")
        label = text_of(where, entry, "label", "answer").strip().lower()
        if label not in ("yes", "no"):
            raise UserError(f"{where}: the label is {label!r}, expected yes or no")
        image = text_of(where, entry, "image")
        questions.append(Question(str(name), image, text_of(where, entry, "text", "question", "prompt"), label))
    refuse_repeats(path, [question.name for question in questions])
    return Questions(path, tuple(questions))


def read_answers(path: Path) -> dict[str, str]:
    """question_id → what a model said, from its result lines (response, text or answer).

    Raises:
        UserError: unreadable, or ids that repeat.
    """
    answers = {}
    ids = []
    for where, entry in read_entries(path, what="lines with question_id and response"):
        name = entry.get("question_id", entry.get("qid"))
        if name is None:
            raise UserError(f"{where} has no question_id")
        ids.append(str(name))
        answers[str(name)] = text_of(where, entry, "response", "text", "answer")
    refuse_repeats(path, ids)
    return answers


def yes_or_no(response: str, parser: Parser = "strict") -> str | None:
    """What a response says: "yes", "no", or None where it says neither or both.

    The published rule takes the first sentence, "no" if it holds "no" or "not", else "yes"; so "maybe" counts as yes.
    """
    first = re.split(r"[.\n]", response.strip().lower(), maxsplit=1)[0].replace(",", "")
    words = re.findall(r"[a-z']+", first)
    negative = any(word in ("no", "not") for word in words)
    if parser == "published":
        return "no" if negative else "yes"
    negative = negative or any(word.endswith("n't") for word in words)
    positive = "yes" in words
    if positive == negative:
        return None
    return "yes" if positive else "no"


def judge(
    questions: Sequence[Question], answers: Mapping[str, str], parser: Parser
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per answered question, and the ids of those without an answer."""
    rows, unanswered = [], []
    for question in questions:
        if question.name not in answers:
            unanswered.append(question.name)
            continue
        reply = yes_or_no(answers[question.name], parser)
        rows.append(
            {
                "id": question.name,
                "image": question.image,
                "label": question.label,
                "response": answers[question.name],
                "said": reply,
                "correct": float(reply == question.label),
            }
        )
    return rows, unanswered
