"""``ieeg evaluate``: from recordings with marked seizures, and a model or detections of any tool, to measures, table, picture and report."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Device, Model, Out, Seed, resolve_device
from core_runtime.terminal import note, warn
from ieeg.commands.detect import OutputOptions, detect_files
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.finding import RecordingFile, find_recordings
from ieeg.recordings.labels import LabelOptions
from ieeg.recordings.settings import Cleaning, Montage
from ieeg.results.evaluation import measure_rows, unfair
from ieeg.results.options import EventOptions, ScoringOptions

if TYPE_CHECKING:
    import numpy as np

    from ieeg.metrics.measures import Judged


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a detector.

    Attributes:
        result: the measures as in metrics.json; `seen_in_training` names the recordings that the model was trained on, or whose patients
            it knows (None: detections of a tool whose training is unknown).
        report: the page.
    """

    result: Mapping[str, Any]
    report: Path

    def facts(self) -> dict[str, Any]:
        return {**self.result, "report": str(self.report)}

    def lines(self) -> Iterable[str]:
        result = self.result
        if warning := unfair(result):
            note.print(warning, style="bold red", markup=False, soft_wrap=True)
        recordings = f"{result['recordings']} recordings of {result['subjects']} subjects"
        yield f"{recordings}, {result['seizures']} seizures, {result['hours']:.1f} h"
        yield f"{'':38} {'mean':>10} {'95 %':>18} {'pooled':>10} {'95 %':>18}"
        for words, mean, interval, pooled, pooled_interval in measure_rows(result):
            yield f"{words:38} {mean:>10} {interval:>18} {pooled:>10} {pooled_interval:>18}"
        for name, measure in result.get("against", {}).get("measures", {}).items():
            test = f"p = {measure['p']:.3f} ({measure['subjects']} subjects)"
            yield f"against the second: {name} differs by {measure['difference']:+.3f}, {test}"
        for name, why in result["left_out"].items():
            warn(f"left out: {name}: {why}")
        for name, why in (result["seen_in_training"] or {}).items():
            warn(f"known from training: {name}: {why}")
        yield RESEARCH_ONLY
        yield f"Report: {self.report}"


@dataclass(frozen=True)
class Truth:
    """A recording and its marked seizures."""

    file: RecordingFile
    duration: float
    seizures: "np.ndarray"


@dataclass(frozen=True)
class Detector:
    """The detector to evaluate: a model, or a folder of detections.

    Attributes:
        model: a model folder, or None.
        detections: a folder of detections, or None.
        out: folder for the model's detections.
        events, montage, cleaning, labels, device, run: as in `detect_files`.
    """

    model: str | None
    detections: Path | None
    out: Path
    events: EventOptions
    montage: Montage
    cleaning: Cleaning
    labels: LabelOptions
    device: str
    run: BulkOptions


def evaluate(
    recordings: Path,
    /,
    *,
    model: Model = None,
    detections: Path | None = None,
    against: str | None = None,
    out: Out = Path("evaluation"),
    events: EventOptions = EventOptions(),
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    labels: LabelOptions = LabelOptions(),
    scoring: ScoringOptions = ScoringOptions(),
    device: Device = "auto",
    seed: Seed = 0,
    run: BulkOptions = BulkOptions(),
) -> Evaluation:
    """Evaluates a detector by windows, samples and events (as SzCORE), per subject and pooled. For research only, not for diagnosis.

    Example: ieeg evaluate data --model run/model --out evaluation

    Args:
        recordings: recordings with marked seizures: a recording, a folder of recordings, or a BIDS data set.
        detections: evaluate these instead: a folder of 'ieeg detect', or of events.tsv files.
        against: second detector for a paired test: a model folder, or a folder of detections.
    """
    from ieeg.metrics.measures import by_subject, compare, judge
    from ieeg.metrics.scores import EventRules

    if (out / "metrics.json").exists() and not run.overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    truths, left_out = find_truths(recordings, labels)
    score_rules = EventRules(rate=scoring.score_rate)

    def detector(model: str | None, detections: Path | None, folder: str) -> Detector:
        where = resolve_device(device)
        place = out / folder
        return Detector(model, detections, place, events, montage, cleaning, labels, where, run)

    judged, failed, rules = _judged(truths, detector(model, detections, "detections"))
    result = judge(judged, rules, rules=score_rules, seed=seed)
    result["left_out"] = left_out | failed
    result["seen_in_training"] = None
    if detections is None:
        result["seen_in_training"] = _seen_in_training([each.name for each in judged], out / "detections")
    if against is not None:
        second = detector(against, None, "detections-second")
        if _is_detections(Path(against)):
            second = detector(None, Path(against), "")
        others, _, second_rules = _judged(truths, second)
        # paired: recordings where either of them failed say nothing about the difference
        shared = {each.name for each in judged} & {each.name for each in others}
        first_counts = by_subject([each for each in judged if each.name in shared], rules, score_rules)
        second_counts = by_subject([each for each in others if each.name in shared], second_rules, score_rules)
        result["against"] = {"detector": against, "measures": compare(first_counts, second_counts, seed=seed)}
    result["notice"] = RESEARCH_ONLY
    _write(result, out)
    return Evaluation(result, out / "report.html")


def find_truths(path: Path, labels: LabelOptions = LabelOptions()) -> tuple[list[Truth], dict[str, str]]:
    """The recordings of a folder whose seizures are known, and why others are left out.

    Raises:
        UserError: there are none.
    """
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.seizures import seizures_of

    truths, left_out = [], {}
    for file in find_recordings(path):
        try:
            recording = open_recording(file.path)
            marked = seizures_of(recording, labels)
        except UserError as error:
            left_out[file.name] = error.message
            continue
        if marked.unfit:
            left_out[file.name] = marked.unfit
            continue
        for warning in marked.warnings:
            warn(f"{file.name}: {warning}")
        truths.append(Truth(file, recording.duration, marked.events))
    if not truths:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:2])
        raise UserError(
            f"{path} holds no recording with marked seizures: {reasons}",
            "seizures are read from events.tsv, EDF+ annotations, or a table of CHB-MIT, Siena, TUH or SzCORE beside the recording",
        )
    return truths, left_out


def _judged(truths: Sequence[Truth], detector: Detector) -> tuple[list["Judged"], dict[str, str], EventOptions]:
    """A detector's results on the recordings, those that failed and why, and the options with the threshold used.

    A model's detections stay in its folder, so that a killed evaluation continues.
    """
    if detector.detections is not None:
        return judged_detections(truths, detector.detections), {}, detector.events
    from ieeg.model.folder import choose, load_model

    loaded = load_model(choose(detector.model), device=detector.device)
    attempts = detect_files(
        [truth.file for truth in truths],
        detector.model,
        detector.out,
        events=detector.events,
        montage=detector.montage,
        cleaning=detector.cleaning,
        labels=detector.labels,
        output=OutputOptions(report=False),
        device=detector.device,
        run=detector.run,
    )
    judged, failed = [], {}
    for truth, attempt in zip(truths, attempts, strict=True):
        if attempt.ok:
            judged.append(_read(truth, detector.out))
        else:
            failed[attempt.name] = attempt.message
            warn(f"failed: {attempt.name}: {attempt.message}")
    if not judged:
        name, message = next(iter(failed.items()))
        raise UserError(f"no recording could be evaluated: {name}: {message}")
    return judged, failed, detector.events.for_model(loaded.threshold)


def judged_detections(truths: Sequence[Truth], folder: Path) -> list["Judged"]:
    """Detections of `ieeg detect` or of any tool that writes BIDS events.tsv with SzCORE's columns, found by the recordings' names.

    Raises:
        UserError: a recording has none.
    """
    if not folder.is_dir():
        raise UserError(
            f"no such folder: {folder}", "give a folder written by 'ieeg detect', or one of events.tsv files"
        )
    return [_read(truth, folder) for truth in truths]


def _read(truth: Truth, folder: Path) -> "Judged":
    """The detections of one recording: its probability trace where there is one, else its events."""
    from ieeg.metrics.measures import Judged
    from ieeg.recordings.seizure_tables import table_events
    from ieeg.results.files import read_trace

    name = truth.file.name
    stem = truth.file.path.name.split(".")[0].removesuffix("_ieeg").removesuffix("_eeg")
    table = _events_table(folder, name, stem)
    for suffix in (".tsv", ".parquet"):
        trace = table.with_name(f"{stem}_probability{suffix}")
        if trace.is_file():
            probability, seconds = read_trace(trace)
            return Judged(truth.file.patient, name, truth.duration, seconds, truth.seizures, probability)
    # without a trace there are no windows of the tool's own: 5 s, as those of the published models
    return Judged(truth.file.patient, name, truth.duration, 5.0, truth.seizures, None, table_events(table))


def _events_table(folder: Path, name: str, stem: str) -> Path:
    """The table of a recording's events.

    Raises:
        UserError: there is none.
    """
    usual = (folder / name / f"{stem}_events.tsv", folder / f"{stem}_events.tsv", folder / f"{name}.tsv")
    for table in (*usual, *sorted(folder.rglob(f"{stem}_events.tsv"))):
        if table.is_file():
            return table
    raise UserError(f"{folder} holds no detections of {name}", f"looked for {stem}_events.tsv at any depth")


def _seen_in_training(names: Sequence[str], folder: Path) -> dict[str, str]:
    """The part that evaluated recordings had in the model's training, by name."""
    reasons = {}
    for name in names:
        facts = json.loads((folder / name / "detection.json").read_text(encoding="utf-8"))
        if facts.get("seen_in_training"):
            reasons[name] = facts["seen_in_training"]
    return reasons


def _is_detections(folder: Path) -> bool:
    """Whether a folder holds detections, not a model."""
    return folder.is_dir() and not (folder / "config.json").is_file()


def _write(result: Mapping[str, Any], out: Path) -> None:
    from core_runtime.folders import write_text, writing
    from ieeg.reports.evaluation import draw_evaluation, evaluation_report

    write_text(out / "metrics.json", json.dumps(_plain(result), indent=1) + "\n")
    names = list(result["measures"])
    lines = ["\t".join(["subject", *names])]
    for subject, measures in result["per_subject"].items():
        cells = []
        for name in names:
            value = measures[name]
            cells.append("n/a" if math.isnan(value) else f"{value:.6g}")
        lines.append("\t".join([subject, *cells]))
    write_text(out / "metrics.tsv", "\n".join(lines) + "\n")
    with writing(out / "evaluation.png") as part:
        draw_evaluation(result).savefig(part, format="png", dpi=110)
    evaluation_report(result).write(out / "report.html")


def _plain(value: Any) -> Any:
    """`value` as JSON can express it: NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
