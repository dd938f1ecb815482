"""``medical-segmentation organs evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted
from core_runtime.options import (
    Above,
    Device,
    Model,
    Out,
    Overwrite,
    Seed,
    Threads,
    options,
    resolve_device,
    use_threads,
)
from core_runtime.terminal import warn
from medical_segmentation.organs.options import InferenceOptions
from medical_segmentation.volumes.volume import ReadingOptions


@options
class EvaluationOptions:
    """Which cases are judged, and how.

    Attributes:
        part: cases that the model was not trained on, or all.
        tolerance: millimetres within which two surfaces agree (surface Dice).
        patients: table with columns case and patient, where names do not say it.
    """

    part: Literal["unseen", "all"] = "unseen"
    tolerance: Annotated[float, Above(0)] = 2.0
    patients: str | None = None


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model on labelled cases.

    Attributes:
        out: folder of the tables and pictures.
        summary: mean, deviation and interval of each class and measure.
        ece: expected calibration error.
        empty: cases whose truth holds no class at all, and how many of them the model left empty, too.
        risk: share of organ voxels that are wrong and not abstained from, mean over cases; None without a threshold.
        abstained: share of organ voxels that the model abstains from.
        origin: the relation of the cases to the model's training, in words.
    """

    out: Path
    summary: Sequence[Mapping[str, Any]]
    ece: float
    risk: float | None
    origin: str
    empty: tuple[int, int] = (0, 0)

    def facts(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "summary": list(self.summary),
            "ece": self.ece,
            "risk_kept": self.risk,
            "empty": list(self.empty),
        }

    def lines(self) -> Iterable[str]:
        from medical_segmentation.organs.judging import summary_lines

        yield self.origin
        yield from summary_lines(self.summary)
        if self.empty[0]:
            yield (
                f"  {counted(self.empty[0], 'case')} whose truth is all background: no Dice where the model finds nothing, either "
                f"({self.empty[1]}), 0 where it finds something ({self.empty[0] - self.empty[1]})"
            )
        yield f"  calibration error {self.ece:.3f}"
        if self.risk is not None:
            yield f"  with --abstain {self.risk:.3f} of the organ voxels are wrong and kept"
        yield f"Case by case: {self.out / 'cases.csv'}; report: {self.out / 'report.html'}"


def evaluate(
    data: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    evaluation: EvaluationOptions = EvaluationOptions(),
    inference: InferenceOptions = InferenceOptions(),
    reading: ReadingOptions = ReadingOptions(),
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model on labelled cases in their own geometry: overlap, surfaces, lesions, calibration, with intervals by patient.

    Example: medical-segmentation organs evaluate Dataset009_Spleen --model run/model

    Args:
        data: a labelled data set, as for train.
    """
    from core_runtime.folders import write_text
    from medical_segmentation.organs.cohort.dataset import case_digest, with_mapping, with_patients, without_names
    from medical_segmentation.organs.cohort.layouts import find_dataset
    from medical_segmentation.organs.judging import summarise
    from medical_segmentation.organs.metrics.certainty import THRESHOLDS
    from medical_segmentation.organs.model.folder import load_model
    from medical_segmentation.organs.reports.evaluation import write_report
    from medical_segmentation.organs.training.calibration import judge

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    use_threads(threads)
    dataset = with_mapping(find_dataset(data), reading)
    for note in dataset.notes:
        warn(note)
    loaded = load_model(model, device=resolve_device(device))
    if evaluation.patients is not None:
        dataset = with_patients(dataset, Path(evaluation.patients))
    dataset = replace(dataset, cases=without_names(dataset.cases))
    if dataset.classes and tuple(dataset.classes[number] for number in sorted(dataset.classes)) != loaded.classes:
        names = ", ".join(dataset.classes.values())
        raise UserError(
            f"{data}: its classes ({names}) are not the model's ({', '.join(loaded.classes)})",
            "rename them in dataset.json",
        )
    trained = set(loaded.provenance.get("cases", []))
    seen = [case for case in dataset.labelled if case_digest(case) in trained]
    cases = dataset.labelled
    if evaluation.part == "unseen":
        names = {case.name for case in seen}
        cases = [case for case in dataset.labelled if case.name not in names]
        origin = f"{len(cases)} cases; the model was trained on none of them ({len(seen)} that it was are left out)."
    elif seen:
        origin = f"The model was trained on {len(seen)} of these {len(cases)} cases: the figures are too good."
    else:
        origin = f"{len(cases)} cases; the model was trained on none of them."
    if not trained:
        origin = f"{len(cases)} cases; the model has no record of what it was trained on."
    if not cases:
        raise UserError(
            f"{data}: the model was trained on all of its {len(seen)} labelled cases",
            "--part all judges them nevertheless",
        )
    judgement = judge(
        loaded,
        dataset,
        cases,
        settings=replace(inference, confidence=True),
        reading=reading,
        tolerance=evaluation.tolerance,
    )
    summary = summarise(judgement.rows, seed=seed)
    risk = None
    if loaded.threshold is not None:
        place = int(abs(THRESHOLDS - loaded.threshold).argmin())
        risk = float(sum(curve[place] for curve in judgement.curves) / len(judgement.curves))
    result = Evaluation(out, summary, judgement.reliability.ece, risk, origin, judgement.empty())
    write_text(out / "cases.csv", judgement.table())
    write_report(result, judgement, loaded, dataset, cases, reading, out)
    write_text(out / "metrics.json", json.dumps(result.facts(), indent=1, default=str).replace("NaN", "null") + "\n")
    return result
