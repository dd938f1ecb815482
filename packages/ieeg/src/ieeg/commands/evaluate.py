"""The job `evaluate`: recordings with marked seizures, and a model or detections of any tool, to measures, table, picture and report."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.bulk import Outcome
from core_runtime.cli import note
from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.report import Report
from ieeg.recordings.bids import Found, find_recordings
from ieeg.commands.detect import DetectOptions, detect_all
from ieeg.metrics.measures import Judged, by_subject, compare, judge
from ieeg.model.folder import RESEARCH_ONLY, chosen
from ieeg.results.events import EventOptions
from ieeg.recordings.recording import open_recording
from ieeg.metrics.scores import events_array
from ieeg.recordings.seizures import seizures_of, tsv

WORDS = {
    "window_kappa": "window: Cohen's kappa",
    "window_f1": "window: F1",
    "sample_sensitivity": "sample: sensitivity",
    "sample_precision": "sample: precision",
    "sample_f1": "sample: F1",
    "sample_false_per_day": "sample: false positives a day",
    "event_sensitivity": "event: sensitivity",
    "event_precision": "event: precision",
    "event_f1": "event: F1",
    "event_false_per_day": "event: false alarms a day",
    "event_false_per_hour": "event: false alarms an hour",
    "latency": "latency, s (median of found seizures)",
    "time_in_warning": "share of time in warning",
}


@dataclass(frozen=True)
class Truth:
    """A recording and its marked seizures."""

    found: Found
    duration: float
    seizures: NDArray[np.float64]


def truths(path: Path) -> tuple[list[Truth], dict[str, str]]:
    """The recordings of a folder whose seizures are known, and why others are left out.

    Raises:
        UserError: none.
    """
    known, left = [], {}
    for found in find_recordings(path):
        try:
            recording = open_recording(found.path)
            marked = seizures_of(recording)
        except UserError as error:
            left[found.name] = error.message
            continue
        if marked.known:
            known.append(Truth(found, recording.duration, marked.events))
        else:
            left[found.name] = "nothing says whether it has seizures"
    if not known:
        raise UserError(
            f"{path} holds no recording with marked seizures: "
            + "; ".join(f"{k}: {v}" for k, v in list(left.items())[:2]),
            "events.tsv, EDF+ annotations, or a table of CHB-MIT, Siena, TUH or SzCORE beside the recording says where they are",
        )
    return known, left


def by_model(
    known: Sequence[Truth], model: str, out: Path, options: DetectOptions, **how: Any
) -> tuple[list[Judged], list[Outcome]]:
    """What a model says of the recordings; kept in `out`, so that a killed evaluation goes on."""
    outcomes = detect_all([t.found for t in known], model, out, options, **how)
    done = [t for t, o in zip(known, outcomes, strict=True) if o.ok]
    return [_read(t, out) for t in done], [o for o in outcomes if not o.ok]


def by_detections(known: Sequence[Truth], folder: Path) -> list[Judged]:
    """Detections of `ieeg detect` or of any tool that writes BIDS events.tsv with SzCORE's columns, found by the recordings' names.

    Raises:
        UserError: a recording has none.
    """
    if not folder.is_dir():
        raise UserError(
            f"no such folder: {folder}", "give the folder that 'ieeg detect' wrote, or one of events.tsv files"
        )
    return [_read(t, folder) for t in known]


def _read(truth: Truth, folder: Path) -> Judged:
    name = truth.found.name
    stem = truth.found.path.name.split(".")[0].removesuffix("_ieeg").removesuffix("_eeg")
    table = next(
        (
            p
            for p in (folder / name / f"{stem}_events.tsv", folder / f"{stem}_events.tsv", folder / f"{name}.tsv")
            if p.is_file()
        ),
        None,
    ) or next(iter(sorted(folder.rglob(f"{stem}_events.tsv"))), None)
    if table is None:
        raise UserError(f"{folder} holds no detections of {name}", f"looked for {stem}_events.tsv at any depth")
    probability, seconds, events = None, 5.0, None
    trace = next(
        (p for p in (table.with_name(f"{stem}_probability{s}") for s in (".tsv", ".parquet")) if p.is_file()), None
    )
    if trace is not None:
        import pandas

        values = pandas.read_parquet(trace) if trace.suffix == ".parquet" else pandas.read_csv(trace, sep="\t")
        probability = values["probability"].to_numpy(np.float32)
        seconds = float(values["duration"].iloc[0])
    else:
        events = events_array(tsv(table.read_text(encoding="utf-8"), table.name))
    return Judged(truth.found.patient, name, truth.duration, seconds, truth.seizures, probability, events)


def evaluate(
    path: Path,
    out: Path,
    *,
    model: str | None = None,
    detections: Path | None = None,
    against: str | None = None,
    options: DetectOptions | None = None,
    device: str = "cpu",
    workers: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Judges a model or detections on every recording with marked seizures, and optionally tests another detector against it.

    Args:
        detections: a folder of detections instead of a model.
        against: a second detector: a model folder or a folder of detections.

    Returns:
        The measures as in metrics.json; `seen_in_training` names the recordings that the model was trained on, or whose patients it knows (None:
        detections of a tool whose training is unknown).

    Raises:
        UserError: nothing to judge or to judge with, or results that are there already.
    """
    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    o = options or DetectOptions(report=False)
    known, left = truths(path)
    how = {"device": device, "workers": workers, "overwrite": overwrite}
    judged, failed, rules = _judged(known, model, detections, out / "detections", o, how)
    result = judge(judged, rules, seed=seed)
    result["left_out"] = left | {f.name: f.message for f in failed}
    result["seen_in_training"] = _seen([j.name for j in judged], out / "detections") if detections is None else None
    if against is not None:
        second_model = None if _is_detections(Path(against)) else against
        folder = Path(against) if second_model is None else None
        others, _, second_rules = _judged(known, second_model, folder, out / "detections-second", o, how)
        shared = {j.name for j in judged} & {j.name for j in others}
        pair = [
            by_subject([j for j in js if j.name in shared], r) for js, r in ((judged, rules), (others, second_rules))
        ]
        result["against"] = {"detector": against, "measures": compare(*pair, seed=seed)}
    result["notice"] = RESEARCH_ONLY
    _write(result, out)
    return result


def _seen(names: Sequence[str], folder: Path) -> dict[str, str]:
    """What the model's training has to do with the recordings that it was judged on, by name."""
    facts = {n: json.loads((folder / n / "detection.json").read_text(encoding="utf-8")) for n in names}
    return {n: f["seen_in_training"] for n, f in facts.items() if f.get("seen_in_training")}


def unfair(result: Mapping[str, Any]) -> str:
    """The sentence that must stand over measures on recordings that the model knows, or ""."""
    seen = list((result.get("seen_in_training") or {}).values())
    if not seen:
        return ""
    return (
        f"No test of the model: {len(seen)} of {result['recordings']} recordings are known to it. {'; '.join(seen[:4])}"
        + (" …" if len(seen) > 4 else "")
    )


def _is_detections(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "config.json").is_file()


def _judged(
    known: Sequence[Truth],
    model: str | None,
    detections: Path | None,
    out: Path,
    options: DetectOptions,
    how: Mapping[str, Any],
) -> tuple[list[Judged], list[Outcome], EventOptions]:
    if detections is not None:
        rules = EventOptions(**options.events)
        return by_detections(known, detections), [], rules
    loaded = chosen(model, device=how["device"])
    assert model is not None
    judged, failed = by_model(known, model, out, options, **how)
    if not judged:
        raise UserError(f"nothing could be judged: {failed[0].name}: {failed[0].message}")
    for outcome in failed:
        note.print(f"failed: {outcome.name}: {outcome.message}", style="yellow", markup=False, soft_wrap=True)
    return judged, failed, EventOptions(**{"threshold": loaded.threshold, **options.events})


def table(result: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """(measure, mean over subjects, its interval, pooled, its interval), for people."""
    rows = []
    for name, words in WORDS.items():
        m = result["measures"][name]
        rows.append(
            (
                words,
                _number(m["mean"]),
                _interval(m["mean_interval"]),
                _number(m["pooled"]),
                _interval(m["pooled_interval"]),
            )
        )
    return rows


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _interval(values: Sequence[float]) -> str:
    return "" if any(math.isnan(v) for v in values) else f"{values[0]:.3f} to {values[1]:.3f}"


def _write(result: Mapping[str, Any], out: Path) -> None:
    from ieeg.reports.evaluation import draw_evaluation

    write_text(out / "metrics.json", json.dumps(_plain(result), indent=1) + "\n")
    names = list(result["measures"])
    lines = ["\t".join(["subject", *names])]
    lines += [
        "\t".join([s, *(f"{m[n]:.6g}" if m[n] == m[n] else "n/a" for n in names)])
        for s, m in result["per_subject"].items()
    ]
    write_text(out / "metrics.tsv", "\n".join(lines) + "\n")
    figure = draw_evaluation(result)
    with writing(out / "evaluation.png") as part:
        figure.savefig(part, format="png", dpi=110)
    seizures = f"{result['seizures']} seizures in {result['hours']:.1f} h of {result['subjects']} subjects"
    page = Report("Evaluation of a seizure detector", lead=seizures).warning(RESEARCH_ONLY)
    if warned := unfair(result):
        page.warning(warned)
    columns = ["measure", "mean over subjects", "95 %", "pooled", "95 %"]
    page.table(columns, table(result), caption="Intervals: bootstrap over subjects. Events and samples as SzCORE.")
    page.picture(figure, "Sensitivity against false alarms an hour over thresholds; calibration of the probability.")
    if "against" in result:
        page.heading(f"Against {result['against']['detector']}")
        rows = [(WORDS[n], m["difference"], m["p"], m["subjects"]) for n, m in result["against"]["measures"].items()]
        page.table(
            ["measure", "difference (second less first)", "p", "subjects"],
            rows,
            caption="Paired permutation test over subjects.",
        )
    if result["left_out"]:
        page.heading("Left out").facts(list(result["left_out"].items()))
    page.write(out / "report.html")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
