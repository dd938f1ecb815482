"""``gaze evaluate``."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome, plain
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, Out, Overwrite, Seed, Threads, resolve_device, use_threads
from gaze.cohort.study import ObjectOptions
from gaze.scanpaths.reading_options import ReadOptions

_FEW_SCENES = 6  # below, a bootstrap is hardly wider than chance makes it
SHOWN = ("sequence_score", "bits", "mm_vector", "mm_position", "auc")


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Predictors and people on the same trials.

    Attributes:
        table: predictor → measure → value and interval, by scene.
        by_subject: the same intervals resampled over subjects.
        values: counts, pairing, what was left out.
        out: the folder with trials.csv, metrics.json and report.html.
    """

    table: Mapping[str, Mapping[str, Any]]
    by_subject: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    out: Path

    def facts(self) -> dict[str, Any]:
        return {**self.values, "measures": self.table, "measures_by_subject": self.by_subject, "out": self.out}

    def lines(self) -> Iterable[str]:
        yield self.values["account"]
        yield f"Judged on {self.values['trials']} paths ({self.values['part']}); {self.values['pairing']}"
        for note in self.values["notes"]:
            yield f"Note: {note}"
        width = max(map(len, self.table)) + 2
        yield f"{'':{width}}" + "".join(f"{name.replace('_', ' '):>26}" for name in SHOWN)
        for name, measures in self.table.items():
            yield f"{name:{width}}" + "".join(f"{_cell(measures.get(measure)):>26}" for measure in SHOWN)
        yield "In brackets: 95 % intervals over scenes."
        yield f"Report: {self.out / 'report.html'}"


def _cell(entry: Mapping[str, float] | None) -> str:
    if entry is None or entry["value"] != entry["value"]:
        return "–"
    if entry["low"] != entry["low"]:
        return f"{entry['value']:.3f}"  # one scene has no interval
    return f"{entry['value']:.3f} ({entry['low']:.3f}–{entry['high']:.3f})"


def evaluate(
    scanpaths: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("gaze-evaluation"),
    objects: ObjectOptions = ObjectOptions(),
    reading: ReadOptions = ReadOptions(),
    part: Literal["auto", "all", "test", "valid"] = "auto",
    samples: Annotated[int, AtLeast(1)] = 100,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model, the baselines and people by the same measures on the same paths; without --model, the baselines and people.

    Example: gaze evaluate fixations.json --areas areas.json --model run/model

    Args:
        scanpaths: a file of scanpaths, or a folder of them.
        part: the model's own test part of these paths (auto, test), its validation part, or all that it was not trained on. Baselines learn
            from the model's training part, or without a model from the very paths that are judged.
        samples: paths drawn per trial.
    """
    from core_runtime.folders import writing
    from core_runtime.identity import begun, identity, refuse_foreign_folder
    from core_runtime.terminal import track
    from gaze.cohort.study import load_study
    from gaze.metrics.judge import judge_people, judge_predictor
    from gaze.model.durations import fit_durations
    from gaze.model.folder import load_model
    from gaze.predictors.baselines import baselines
    from gaze.predictors.network import NetworkPredictor, PatchPredictor

    use_threads(threads)
    refuse_foreign_folder(out, [scanpaths], overwrite=overwrite)
    network, crop = None, None
    if model is not None:
        loaded, prepared = load_model(model, resolve_device(device))
        network = NetworkPredictor(loaded, prepared)
        if prepared.looks and objects.images is None and objects.crops is None:
            raise UserError("this model was trained with pictures", "give --images FOLDER or --crops FOLDER")
        crop = None
        if prepared.looks:
            crop = loaded.config.crop
    study = load_study(scanpaths, objects, reading, crop=crop)
    learned, judged, words = _parts(study, model, part)
    scenes = dict(study.scenes)
    longest = network.prepared.longest if network else max(len(trial.objects) for trial in learned)
    predictors: list[Any] = list(baselines(learned, scenes))
    if network is not None:
        predictors.append(PatchPredictor(network) if network.prepared.patches[0] else network)
    durations = network.prepared.durations if network else fit_durations(learned)
    results = [
        judge_predictor(predictor, judged, scenes, samples=samples, longest=longest, seed=seed, durations=durations)
        for predictor in track(predictors, "Judging", len(predictors))
    ]
    results.append(judge_people(judged, scenes))
    rows_of = {result.name: result.rows for result in results}
    table, by_subject = measured(rows_of, "scene"), measured(rows_of, "subject")
    notes = []
    judged_scenes = len({trial.scene for trial in judged})
    if judged_scenes < _FEW_SCENES:
        notes.append(f"an interval over {judged_scenes} scenes says little")
    if durations is not None:
        notes.append(
            "no predictor predicts durations: each fixation's is drawn from people's of its kind "
            "(first, new, again, back, target), which MultiMatch's duration compares"
        )
    for result in results:
        notes += [note for note in result.notes if note not in notes]
        if result.short:
            short = f"{result.short} of {result.pairs} pairs without MultiMatch (a path of fewer than 3 fixations)"
            notes.append(f"{result.name}: {short}")
    values = {
        "account": study.account(),
        "trials": len(judged),
        "part": words,
        "pairing": f"{samples} sampled paths per trial against its human path; people: each against all others of the same scene and target",
        "samples": samples,
        "notes": [*study.notes, *notes],
        "delta": {result.name: result.delta for result in results},
    }
    evaluation = Evaluation(table, by_subject, values, out)
    from gaze.reports.evaluation import write_evaluation

    with begun(out, {"evaluate": identity(scanpaths)}), writing(out) as folder:
        folder.mkdir()
        facts = json.dumps(plain(evaluation.facts()), indent=1, ensure_ascii=False)
        (folder / "metrics.json").write_text(facts + "\n", encoding="utf-8")
        (folder / "trials.csv").write_text(trial_table(results), encoding="utf-8")
        write_evaluation(folder, evaluation, results, judged, scenes, predictors, longest=longest)
    return evaluation


def _parts(study: Any, model: str | None, part: str) -> tuple[list[Any], list[Any], str]:
    """What baselines learn from, what is judged, and how that is said.

    Raises:
        UserError: nothing is left to be judged, or only what the model was trained on.
    """
    if model is None:
        return (
            list(study.trials),
            list(study.trials),
            "all paths; the baselines' few numbers are learned from the same paths",
        )
    from gaze.model.folder import trained_on

    known = trained_on(model)
    # a trial is known by its fixations as they were read: other data sets have subjects and pictures of the same names
    by_part: dict[str, list[Any]] = {}
    for name, sources in known.items():
        part_sources = set(sources)
        by_part[name] = [trial for trial in study.trials if trial.source in part_sources]
    everything = {source for sources in known.values() for source in sources}
    new = [trial for trial in study.trials if trial.source not in everything]
    of_test = "the model's test part"
    if set(known.get("test", [])) & set(known.get("valid", [])):
        of_test = "the model's validation part, which chose its epoch: the data set publishes no test part"
    choices = {
        "test": (by_part.get("test", []), of_test),
        "valid": (by_part.get("valid", []), "the model's validation part, which chose its epoch"),
        "all": ([*by_part.get("test", []), *new], "all paths that the model was not trained on"),
    }
    judged, words = choices["test" if part == "auto" and by_part.get("test") else "all" if part == "auto" else part]
    if not judged:
        trained = len(by_part.get("train", []))
        raise UserError(
            f"no path is left to judge this model on: it was trained on {trained} of {len(study.trials)}",
            "give other recordings, or --part valid",
        )
    return by_part.get("train") or judged, judged, words


def measured(rows_of: Mapping[str, Sequence[Mapping[str, Any]]], unit: str) -> dict[str, dict[str, Any]]:
    """Means with 95 % intervals.

    Args:
        rows_of: predictor → a row per trial with its measures, NaN or empty where one cannot be told.
        unit: column whose values are resampled whole: "scene" or "subject".
    """
    import numpy as np

    from core_runtime.statistics import intervals
    from gaze.metrics.judge import MEASURES

    table: dict[str, dict[str, Any]] = {}
    for name, rows in rows_of.items():
        values = np.array([[float(row[measure] or "nan") for measure in MEASURES] for row in rows])
        known = ~np.isnan(values)
        units, member = np.unique([row[unit] for row in rows], return_inverse=True)
        # a mean over trials needs of each unit their sum and their number alone
        sums, counts = np.zeros((2, len(units), len(MEASURES)))
        np.add.at(sums, member, np.where(known, values, 0))
        np.add.at(counts, member, known)
        told = np.flatnonzero(known.any(0))

        def means(indices: Any, sums: Any = sums, counts: Any = counts, told: Any = told) -> dict[str, float]:
            total = counts[indices].sum(0)
            mean = np.divide(sums[indices].sum(0), total, out=np.full(len(MEASURES), np.nan), where=total > 0)
            return {MEASURES[place]: float(mean[place]) for place in told}

        everything = list(range(len(units)))
        centre = means(np.array(everything))
        ends = intervals(means, everything, bounded=False)
        table[name] = {
            measure: {"value": centre[measure], "low": end.low, "high": end.high, "groups": end.groups}
            for measure, end in ends.items()
        }
    return table


def trial_table(results: Sequence[Any]) -> str:
    """CSV: a row per predictor and trial, which ``gaze compare`` reads."""
    out = io.StringIO()
    columns = ["predictor", *results[0].rows[0]]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for row in result.rows:
            writer.writerow({"predictor": result.name, **row})
    return out.getvalue()
