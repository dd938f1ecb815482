"""``ieeg forecast``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, Out, Overwrite, Threads, resolve_device, use_threads
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.settings import Cleaning, Montage

if TYPE_CHECKING:
    from ieeg.model.forecast import Forecast


@dataclass(frozen=True)
class Forecasts(Outcome):
    """Forecasts of a recording's next segments.

    Attributes:
        steps: for each forecast segment that the recording holds: onset, similarity to the truth, that of repeating the last segment, and
            how often the truth was ranked first.
        padded: number of segments of the window that the recording did not have.
        report: the page.
    """

    recording: Path
    first: int
    count: int
    segment_seconds: float
    channels: Sequence[str]
    steps: Sequence[Mapping[str, float]]
    padded: int
    notes: Sequence[str]
    report: Path

    def facts(self) -> dict[str, Any]:
        return {
            "recording": str(self.recording),
            "first_segment": self.first,
            "segment_seconds": self.segment_seconds,
            "channels": self.channels,
            "steps": self.steps,
            "padded_segments": self.padded,
            "notes": self.notes,
            "notice": RESEARCH_ONLY,
            "report": str(self.report),
        }

    def lines(self) -> Iterable[str]:
        last = self.first + self.count - 1
        segments = f"segments {self.first} to {last} of {self.segment_seconds:g} s"
        yield f"{self.recording.name}: {segments}, {len(self.channels)} channels"
        yield from self.notes
        for step in self.steps:
            yield (
                f"  step {step['step']}: similarity {step['similarity']:.3f} "
                f"(repeating the last segment {step['persistence']:.3f}); "
                f"the truth ranked first in {step['found']:.0%} of the channels"
            )
        if not self.steps:
            yield "  the recording ends here: no truth to compare with"
        yield RESEARCH_ONLY
        yield f"Report: {self.report}"


def forecast(
    recording: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("forecast"),
    at: float | None = None,
    steps: Annotated[int, AtLeast(1)] = 1,
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> Forecasts:
    """Forecasts the next segments of every channel and shows them against the truth. For research only, not for diagnosis.

    Example: ieeg forecast recording.edf --model run/model --at 600 --steps 2

    Args:
        recording: the recording to forecast in.
        at: second from which to forecast; default: the recording's last segments.
        steps: segments to forecast, each from the ones before it.
    """
    from core_runtime.identity import refuse_inputs_as_outputs
    from ieeg.model.folder import choose, load_model
    from ieeg.model.forecast import forecast_segments
    from ieeg.recordings.copies import seen_in_training, signature
    from ieeg.recordings.finding import dataset_of, files_of, patient_of
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.prepared import Prepared
    from ieeg.reports.forecast import write_forecast

    use_threads(threads)
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a forecast", "--overwrite replaces it, --out names another folder")
    opened = open_recording(recording)
    refuse_inputs_as_outputs(files_of(recording), [out / "forecast.npz", out / "forecast.tsv"])
    loaded = load_model(choose(model), device=resolve_device(device))
    signals = Prepared(opened, loaded.settings.changed_by(montage, cleaning))
    seconds = loaded.segment_seconds
    first = None
    if at is not None:
        first = round(at / seconds)
    forecasts = forecast_segments(loaded.network, signals, first=first, steps=steps, window=loaded.window)
    notes = [*opened.warnings, *signals.notes]
    dataset = dataset_of(recording, recording.parent)
    content = signature(opened, recording.name.split(".")[0], patient_of(recording, recording.parent), dataset)
    known = seen_in_training(loaded.provenance, content)
    if known:
        notes.append(f"{known}: this is not a test of the model")
    if forecasts.padded:
        notes.append(
            f"the recording has {forecasts.padded} segments fewer before the forecast than the model's window: "
            "its first segment is repeated in their place"
        )
    outcome = Forecasts(
        recording,
        forecasts.first,
        steps,
        seconds,
        forecasts.names,
        _measures(forecasts, seconds),
        forecasts.padded,
        notes,
        out / "report.html",
    )
    write_forecast(forecasts, out, recording.name, loaded.rate, outcome.steps, notes)
    return outcome


def _measures(forecasts: "Forecast", seconds: float) -> list[dict[str, float]]:
    """How near each forecast segment is to the truth."""
    steps = []
    for i in range(len(forecasts.truth)):
        step = {
            "step": i + 1,
            "onset": (forecasts.first + i) * seconds,
            "similarity": float(forecasts.similarity[i].mean()),
            "persistence": float(forecasts.persistence[i].mean()),
            "better": float((forecasts.similarity[i] > forecasts.persistence[i]).mean()),
            "found": float(forecasts.found[i]),
        }
        steps.append(step)
    return steps
