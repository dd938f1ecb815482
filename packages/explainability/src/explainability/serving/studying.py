"""A study of people who accept or reject what CHM-Corr says: the trials of each participant, and the log in JSON lines."""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.errors import UserError, clean
from explainability.chm_corr.session import Session
from explainability.serving.desk import Pictures, decided, jpeg, mask_of, told, whole_number

if TYPE_CHECKING:
    from core_runtime.server import Call

Condition = Literal["interactive", "static"]
NAME = re.compile(r"[\w .@+-]{1,40}")


@dataclass(frozen=True)
class Trial:
    """A query of a study.

    Attributes:
        number: in the folder of queries.
        label: its true class.
        session: what CHM-Corr worked out.
        said: the label that CHM-Corr gives without an edit.
    """

    number: int
    label: str
    session: Session
    said: str


@dataclass
class StudyDesk:
    """*study*: half of a participant's trials are ones where the model is right, half where it is wrong, in an order of their seed.

    Attributes:
        trials: all that may be drawn.
        pictures: the queries.
        folder: for ``decisions.jsonl`` and ``interactions.jsonl``, which are only ever added to.
        each: trials of a participant; an even number.
        condition: interactive: cells may be edited; static: they are only shown.
    """

    trials: Sequence[Trial]
    pictures: Pictures
    folder: Path
    each: int = 20
    condition: Condition = "interactive"
    shown: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        right = sum(trial.said == trial.label for trial in self.trials)
        wrong = len(self.trials) - right
        if self.each % 2 or self.each < 2:
            raise UserError(f"--trials {self.each}: half are right and half wrong answers", "give an even number")
        if min(right, wrong) < self.each // 2:
            most = 2 * min(right, wrong)
            hint = f"--trials {most} fits them" if most else "add queries: a study needs right and wrong answers"
            raise UserError(
                f"a study of {self.each} trials needs {self.each // 2} queries that the model gets right and as many wrong ones; "
                f"it has {right} and {wrong}",
                hint,
            )

    def endpoints(self) -> dict[str, "Callable[[Call], Any]"]:
        """Path → function."""
        return {
            "/study/start": told(self.start),
            "/study/trial": told(self.show),
            "/study/edit": told(self.edit),
            "/study/decide": told(self.decide),
        }

    def draw(self, seed: int) -> list[Trial]:
        """The trials of a participant; the same under the same seed."""
        order = random.Random(seed)
        half = self.each // 2
        right = [trial for trial in self.trials if trial.said == trial.label]
        wrong = [trial for trial in self.trials if trial.said != trial.label]
        drawn = order.sample(right, half) + order.sample(wrong, half)
        order.shuffle(drawn)
        return drawn

    def start(self, call: "Call") -> dict[str, Any]:
        """How many trials there are and how many are decided: a participant who comes back goes on."""
        user, seed = self._participant(call)
        return {"trials": self.each, "decided": len(self._decisions(user, seed)), "condition": self.condition}

    def show(self, call: "Call") -> dict[str, Any]:
        """The next trial: the picture, what the model says and why. The true class is not told."""
        user, seed = self._participant(call)
        place = len(self._decisions(user, seed))
        if place >= self.each:
            return {"done": True, **self._summary(user, seed)}
        trial = self.draw(seed)[place]
        self.shown.add((user, place))
        sent = self.pictures.query(trial.number)
        facts = decided(trial.session, None)
        return {"done": False, "trial": place, "trials": self.each, "image": jpeg(sent.picture.image), **facts}

    def edit(self, call: "Call") -> dict[str, Any]:
        """The decision under a participant's mask; logged."""
        user, seed, _, trial = self._current(call)
        if self.condition != "interactive":
            raise UserError("this study shows correspondences without edits")
        facts = decided(trial.session, mask_of(call))
        line = {
            "username": user,
            "image_index": trial.number,
            "user_mask": facts["user_mask"],
            "chm_predictions": facts["votes"],
            "chm_predictions_top_1": facts["label"],
            "random_seed": seed,
        }
        self._append("interactions.jsonl", line)
        return facts

    def decide(self, call: "Call") -> dict[str, Any]:
        """Accept or Reject with a confidence of 1 to 5; logged."""
        user, seed, place, trial = self._current(call)
        decision = call.one("decision", "")
        if decision not in ("Accept", "Reject"):
            raise UserError(f"decision is {clean(decision)[:20]!r}, expected Accept or Reject")
        confidence = whole_number(call.one("confidence", ""), "confidence", 5, 1)
        own = trial.session.facts(trial.session.support.predict(None, ties=trial.session.rules.ties))
        shares = [count / own["k"] for count in own["votes"].values()]
        line = {
            "username": user,
            "method": self.condition,
            "gt-label": trial.label,
            "ai-prediction": {"label": trial.said, "confidences": shares},
            "image-index": trial.number,
            "decision": decision,
            "self-reported-confidence": confidence,
            "user-random-set": [each.number for each in self.draw(seed)],
            "random_seed": seed,
        }
        self._append("decisions.jsonl", line)
        return {"decided": place + 1, "trials": self.each}

    def _participant(self, call: "Call") -> tuple[str, int]:
        user = call.one("user", "").strip()
        if not NAME.fullmatch(user):
            raise UserError(f"user is {clean(user)[:40]!r}", "a name has 1 to 40 letters, digits, blanks or . @ + - _")
        return user, whole_number(call.one("seed", "0"), "seed", 10**9 - 1)

    def _current(self, call: "Call") -> tuple[str, int, int, Trial]:
        """The participant and the trial that is theirs to decide.

        Raises:
            UserError: all are decided, the page shows another trial, or it was not shown yet.
        """
        user, seed = self._participant(call)
        place = len(self._decisions(user, seed))
        if place >= self.each:
            raise UserError(f"{user} has decided all {self.each} trials")
        asked = whole_number(call.one("trial", str(place)), "trial", self.each - 1)
        if asked != place:
            raise UserError(f"trial {asked} is not the one to decide; it is {place}", "load the page again")
        if (user, place) not in self.shown:
            raise UserError("this trial was not shown yet", "ask for /study/trial first")
        return user, seed, place, self.draw(seed)[place]

    def _decisions(self, user: str, seed: int) -> list[dict[str, Any]]:
        """What a participant decided so far."""
        path = self.folder / "decisions.jsonl"
        if not path.is_file():
            return []
        own = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # half a line of a server that was killed while it wrote
            if record.get("username") == user and record.get("random_seed") == seed:
                own.append(record)
        return own

    def _summary(self, user: str, seed: int) -> dict[str, Any]:
        """Part 4: how often the participant was right."""
        right = 0
        for record in self._decisions(user, seed):
            model_right = record["ai-prediction"]["label"] == record["gt-label"]
            right += (record["decision"] == "Accept") == model_right
        return {"right": right, "trials": self.each}

    def _append(self, name: str, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        text = json.dumps(line, ensure_ascii=False) + "\n"
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a server that was killed left half a line
                    text = "\n" + text
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
