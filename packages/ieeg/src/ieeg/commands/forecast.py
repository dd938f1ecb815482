"""What the verbs forecast and stream do with files: open, prepare, compute, write; and what all learning verbs print at their end."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.bulk import Outcome, summary
from core_runtime.cli import Result
from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.report import Report
from ieeg.recordings.bids import patient_of
from ieeg.model.forecast import Forecast, draw, forecast
from ieeg.recordings.copies import seen_in_training, signature
from ieeg.model.folder import RESEARCH_ONLY, LoadedModel, chosen
from ieeg.model.conversion import check, convert, get, listed
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.recording import open_recording
from ieeg.commands.train import Trained, settings_of
from ieeg.model.stream import Alarms, stream


def prepared_for(loaded: LoadedModel, path: Path, **changes: Any) -> Prepared:
    """A recording prepared as a model wants it; `changes` are fields of `Settings` that are not None.

    Raises:
        UserError: it cannot be read or used.
    """
    settings = replace(settings_of(loaded), **{k: v for k, v in changes.items() if v is not None})
    return Prepared(open_recording(path), settings)


def forecast_file(
    path: Path,
    model: str | None,
    out: Path,
    *,
    at: float | None = None,
    steps: int = 1,
    device: str = "cpu",
    overwrite: bool = False,
    **preparing: Any,
) -> Result:
    """Forecasts the next segments of a recording: ``forecast.npz`` (waveforms), ``forecast.tsv`` (each channel's similarity), picture, report.

    Args:
        at: seconds into the recording from which to forecast; default: so that the last forecast is the recording's last segment.

    Raises:
        UserError: no model, a model that does not forecast, a recording that does not fit, results that are there.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a forecast", "--overwrite replaces it, --out names another folder")
    signals_of = chosen(model, device=device)
    if signals_of.detects:
        raise UserError(
            "this model has a seizure head and forecasts nothing",
            "take a generative model: 'ieeg train --task pretrain', or a published base checkpoint",
        )
    signals = prepared_for(signals_of, path, **preparing)
    seconds = signals_of.segment_seconds
    first = None if at is None else round(at / seconds)
    made = forecast(signals_of.network, signals, first=first, steps=steps, window=signals_of.window)
    notes = list(signals.notes)
    one = signature(signals.recording, path.name.split(".")[0], patient_of(path, path.parent))
    if seen := seen_in_training(signals_of.provenance, one):
        notes.append(f"{seen}: this is no test of the model")
    facts = _facts(made, path, seconds, notes)
    _write_forecast(made, out, facts, signals_of.rate)

    def show() -> None:
        print(
            f"{path.name}: segments {made.first} to {made.first + steps - 1} of {seconds:g} s, {len(made.names)} channels"
        )
        for note in facts["notes"]:
            print(note)
        for step in facts["steps"]:
            print(
                f"  step {step['step']}: similarity {step['similarity']:.3f} (repeating the last segment {step['persistence']:.3f}); "
                f"the truth found first in {step['found']:.0%} of the channels"
            )
        if not facts["steps"]:
            print("  the recording ends here: no truth to compare with")
        print(RESEARCH_ONLY)
        print(f"Report: {out / 'report.html'}")

    return Result(facts | {"report": str(out / "report.html")}, show)


def _facts(made: Forecast, path: Path, seconds: float, notes: list[str]) -> dict[str, Any]:
    if made.padded:
        notes.append(
            f"the recording has {made.padded} segments fewer before the forecast than the model's window: "
            "its first segment stands for them"
        )
    steps = [
        {
            "step": i + 1,
            "onset": (made.first + i) * seconds,
            "similarity": float(made.similarity[i].mean()),
            "persistence": float(made.persistence[i].mean()),
            "better": float((made.similarity[i] > made.persistence[i]).mean()),
            "found": float(made.found[i]),
        }
        for i in range(len(made.truth))
    ]
    return {
        "recording": str(path),
        "first_segment": made.first,
        "segment_seconds": seconds,
        "channels": made.names,
        "steps": steps,
        "padded_segments": made.padded,
        "notes": notes,
        "notice": RESEARCH_ONLY,
    }


def _write_forecast(made: Forecast, out: Path, facts: Mapping[str, Any], rate: float) -> None:
    with writing(out / "forecast.npz") as part, part.open("wb") as file:
        np.savez(
            file,
            names=np.array(made.names),
            rate=rate,
            context=made.context,
            predicted=made.predicted,
            truth=made.truth,
        )
    lines = ["channel\tstep\tsimilarity\tpersistence"]
    for i in range(len(made.truth)):
        rows = zip(made.names, made.similarity[i], made.persistence[i], strict=True)
        lines += [f"{name}\t{i + 1}\t{a:.6f}\t{b:.6f}" for name, a, b in rows]
    write_text(out / "forecast.tsv", "\n".join(lines) + "\n")
    figure = draw(made, rate)
    with writing(out / "figures" / "forecast.png") as picture:
        figure.savefig(picture, format="png", dpi=110)
    report = Report(
        "Forecast", lead=f"{Path(facts['recording']).name}: what the next segments of every channel would be"
    )
    report.warning(RESEARCH_ONLY)
    for note in facts["notes"]:
        report.text(note)
    report.picture(out / "figures" / "forecast.png", "Grey: recorded; orange: forecast. The model predicts embeddings; "
                   "a waveform is the likeliest one with the predicted embedding, given the spectrum of the segments before.")  # fmt: skip
    columns = ("step", "onset", "similarity", "persistence", "better", "found")
    report.table(
        columns,
        [[step[c] for c in columns] for step in facts["steps"]],
        caption="Cosine of predicted and true embeddings; persistence repeats the last known segment; better: share of channels above it; "
        "found: share whose true next segment is the nearest of all known ones.",
    )
    report.link("forecast.npz", "Waveforms (microvolts)").link("forecast.tsv", "Similarity of every channel")
    report.write(out / "report.html")


def stream_file(
    path: Path,
    model: str | None,
    say: Callable[[str], None],
    *,
    out: Path | None = None,
    every: bool = False,
    follow: bool = False,
    poll: float = 5.0,
    patience: float | None = None,
    threshold: float | None = None,
    release: float | None = None,
    confirm: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    **preparing: Any,
) -> None:
    """Follows a recording and says each record as a line of JSON, also into `out`; ``OUT.position`` is how far it got.

    Raises:
        UserError: no model, a recording that does not fit, a file that is there.
    """
    loaded = chosen(model, device=device)
    seconds = loaded.segment_seconds
    begin = loaded.threshold if threshold is None else threshold
    try:
        rules = Alarms(begin, min(begin, 0.8 * begin if release is None else release), confirm)
    except ValueError as error:
        raise UserError(str(error)) from None
    opened: list[Prepared] = []

    def reopen() -> Prepared:
        """Later looks keep the channels, references and filters of the first one."""
        if opened:
            return opened[0].again(open_recording(path))
        opened.append(prepared_for(loaded, path, **preparing))
        return opened[0]

    first, running_since = 0, None
    if out is not None and out.exists() and not overwrite:
        if not resume:
            raise UserError(f"{out} is already there", "--resume goes on with it, --overwrite begins anew")
        first, running_since = _position(out, seconds)
    elif out is not None:
        write_text(out, "")
        write_text(_beside(out), "0")
    file = None if out is None else out.open("a", encoding="utf-8")
    try:
        records = stream(
            loaded.network,
            reopen,
            seconds=seconds,
            window=loaded.window,
            alarms=rules,
            first=first,
            running_since=running_since,
            every_segment=True,
            follow=follow,
            poll=poll,
            patience=patience,
        )
        for record in records:
            if record["type"] != "segment" or every:
                line = json.dumps(record, ensure_ascii=False)
                say(line)
                if file is not None:
                    file.write(line + "\n")
            if record["type"] == "segment" and out is not None and file is not None:
                file.flush()
                part = _beside(out).with_suffix(".part")
                part.write_text(str(record["index"] + 1))
                os.replace(part, _beside(out))
    finally:
        if file is not None:
            file.close()


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".position")


def _position(out: Path, seconds: float) -> tuple[int, int | None]:
    """How far a stream got, and the first segment of an alarm that was running; lines said after that are taken back."""
    try:
        first = int(_beside(out).read_text())
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        raise UserError(f"{out} cannot be resumed: its position file is not there", "--overwrite begins anew") from None
    kept = [
        r for r in records if _said_at(r, seconds) <= first * seconds + 1e-6 and r.get("state") != "running at the end"
    ]
    write_text(out, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
    alarms = [r for r in kept if r["type"] == "alarm"]
    running = bool(alarms) and alarms[-1]["state"] == "on"
    return first, round(alarms[-1]["onset"] / seconds) if running else None


def _said_at(record: Mapping[str, Any], seconds: float) -> float:
    return record["onset"] + seconds if record["type"] == "segment" else record.get("said_at", 0.0)


def trained(made: Trained) -> Result:
    """What `train` prints."""
    code = summary(Outcome(name, "left out", why) for name, why in made.left_out.items())

    def show() -> None:
        print(f"Learned from {len(made.learned)} patients, held out {len(made.held_out)}")
        for name, value in made.best.items():
            if name not in ("score", "lr"):
                print(f"  {name.replace('_', ' '):16} {value:.4g}")
        if made.detects:
            print(f"  threshold        {made.threshold:g}")
        print(f"Model folder: {made.model}")
        print(RESEARCH_ONLY)
        print(f"Next: ieeg {'detect' if made.detects else 'forecast'} RECORDING --model {made.model}")

    return Result(made.plain() | {"notice": RESEARCH_ONLY}, show, code)


def about_models(action: str, what: str | None, out: Path, **options: Any) -> Result:
    """The verb `models`."""
    if action == "list":
        facts = listed()
        return Result(facts, lambda: _show_list(facts))
    if what is None:
        wanted = {"get": "the name of a model", "convert": "a checkpoint", "check": "a model folder"}[action]
        raise UserError(f"'models {action}' needs {wanted}", "'ieeg models' lists what is published")
    if action == "get":
        facts = get(what, out)
    elif action == "convert":
        facts = convert(Path(what), out, **options)
    else:
        facts = check(what)
    return Result(facts, lambda: print("\n".join(f"{key}: {value}" for key, value in facts.items())))


def _show_list(facts: Mapping[str, Any]) -> None:
    for m in facts["models"]:
        uses = " and ".join(verb for verb in ("forecast", "detect") if m[verb]) or "training"
        print(f"{m['name']:22} {m['holds']} ({m['parameters']} parameters, {m['size']}); for {uses}")
        print(f"{'':22} {m['licence']}{', gated' if m['gated'] else ''}")
        print(f"{'':22} needs {m['needs']}")
    print(facts["notice"])
