"""``explainability study``."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Names, Seed

if TYPE_CHECKING:
    from explainability.study.analysis import Comparison, MethodResult


@dataclass(frozen=True)
class StudyResults(Outcome):
    """What a study shows.

    Attributes:
        methods: results of each method, the greatest accuracy first.
        comparisons: of every two methods.
        notes: what the user should know of the file.
    """

    methods: "Sequence[MethodResult]"
    comparisons: "Sequence[Comparison]"
    notes: Sequence[str]

    def facts(self) -> dict[str, Any]:
        methods = []
        for result in self.methods:
            ends = {name: [interval.low, interval.high] for name, interval in result.ends.items()}
            methods.append({**asdict(result), "ends": ends})
        return {"methods": methods, "comparisons": [asdict(c) for c in self.comparisons], "notes": list(self.notes)}

    def lines(self) -> Iterable[str]:
        for note in self.notes:
            yield f"Note: {note}"
        yield "Share of right decisions in % [95 % interval over participants]: all, model right, model wrong"
        for result in self.methods:
            parts = []
            for name, share in result.accuracy.items():
                ends = result.ends[name]
                parts.append(f"{100 * share:.1f} [{100 * ends.low:.1f}, {100 * ends.high:.1f}]")
            counts = ", ".join(f"{name} {count}" for name, count in result.confusion.items())
            yield f"  {result.method:12} {'  '.join(parts)}  ({result.participants} people, {result.trials} trials; {counts})"
        if self.comparisons:
            yield "Differences of participants' means in points, p by permuting participants, corrected after Holm"
        for each in self.comparisons:
            yield (
                f"  {each.first} - {each.second}: {100 * each.difference:+.1f}, p {each.p:.4f}, corrected {each.corrected:.4f}; "
                f"5 points need {each.needed} people per method"
            )


def study(
    path: Path,
    /,
    *,
    methods: Names | None = None,
    permutations: Annotated[int, AtLeast(100)] = 10_000,
    seed: Seed = 0,
) -> StudyResults:
    """Analyses a study in which people accepted or rejected a model's answers: accuracy by method, intervals and tests over participants.

    Example: explainability study decisions.csv

    Args:
        path: a table with a row per trial (UID, Method, Correctness, ClassifierCorrectness), or JSON lines of decisions.
        methods: only these.
        permutations: of each test.
    """
    from explainability.study.analysis import compare_methods, describe
    from explainability.study.reading import Study, read_study

    whole = read_study(path)
    if methods is not None:
        unknown = [method for method in methods if method not in whole.methods]
        if unknown:
            raise UserError(f"{path}: no method {', '.join(unknown)}", f"it has {', '.join(whole.methods)}")
        decisions = [decision for decision in whole.decisions if decision.method in methods]
        whole = Study(decisions, whole.notes)
    return StudyResults(
        describe(whole, seed=seed), compare_methods(whole, permutations=permutations, seed=seed), whole.notes
    )
