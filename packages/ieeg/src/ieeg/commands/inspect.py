"""``ieeg inspect``: the content of a recording, and whether it can be used."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings, FolderFindings, write_picture
from core_runtime.terminal import note, track
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.finding import find_recordings
from ieeg.recordings.formats import kind_of
from ieeg.recordings.labels import LabelOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ieeg.recordings.quality import Quality
    from ieeg.recordings.recording import Channel, Recording
    from ieeg.recordings.seizures import Seizures

SEGMENT = 5.0  # seconds, of the published models
PICTURE_SECONDS = 20.0
LOWEST_REACH = 60.0  # Hz: highest frequency of the tiny models (64 Hz), with some tolerance


def inspect(
    recordings: Path, /, *, picture: Path | None = None, labels: LabelOptions = LabelOptions()
) -> Findings | FolderFindings:
    """Reports what a recording holds: montage, bad channels and why, rates, gaps, seizures; and whether it can be used.

    Example: ieeg inspect recording.edf --picture look.png

    Args:
        recordings: a recording, a folder of recordings, or a BIDS data set.
        picture: write a picture of the (first) recording to this file (.png, .svg, .pdf).
    """
    findings = examine_all(recordings, labels, pictures=picture is not None)
    if picture is not None and findings.findings:
        write_picture(findings.findings[0], picture)
        note.print(f"Picture: {picture}", markup=False, soft_wrap=True)
    if len(findings.findings) == 1 and not findings.unreadable:
        return findings.findings[0]
    return findings


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; for a folder, at its first recording."""
    folder = examine_all(path, pictures=True)
    if not folder.findings:
        from ieeg.recordings.recording import some_of

        raise UserError(
            f"none of the recordings of {path.name} can be read", some_of(list(folder.unreadable.values()), 2)
        )
    return folder.findings[0]


def examine_all(path: Path, labels: LabelOptions = LabelOptions(), *, pictures: bool) -> FolderFindings:
    """A recording, a folder or a BIDS data set. A picture is drawn of the first recording.

    Raises:
        UserError: nothing is there, or a single recording cannot be read.
    """
    files = find_recordings(path)
    if len(files) == 1:
        return FolderFindings(findings=[examine(files[0].path, path, labels, pictures=pictures)])
    findings, unreadable = [], {}
    for file in track(files, "Inspecting"):
        try:
            wants_picture = pictures and not findings
            findings.append(examine(file.path, path, labels, pictures=wants_picture))
        except UserError as error:
            unreadable[file.name] = error.message
    return FolderFindings(findings=findings, unreadable=unreadable)


def examine(
    path: Path, asked: Path | None = None, labels: LabelOptions = LabelOptions(), *, pictures: bool = False
) -> Findings:
    """Examines one recording; reads a few seconds here and there.

    Args:
        asked: the path that the user gave: the recording itself, or a folder that holds it.

    Raises:
        UserError: it cannot be read.
    """
    from ieeg.recordings import quality
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.seizures import marked_seizures

    recording = open_recording(path)
    inspection = Inspection(recording, quality.examine(recording), marked_seizures(recording, labels))
    drawn = []
    if pictures:
        caption = "Neural channels as recorded; bad ones in orange, marked seizures shaded."
        drawn = [(inspection.picture(), caption)]
    next_commands = []
    if not inspection.problem:
        next_commands = _next_commands(asked or path)
    return Findings(
        title=path.name,
        kind=kind_of(path) or "recording",
        summary=inspection.summary,
        usable=not inspection.problem,
        details=dict(inspection.rows),
        data=inspection.facts(),
        warnings=[*inspection.warnings, RESEARCH_ONLY],
        next_commands=next_commands,
        pictures=drawn,
    )


def _next_commands(path: Path) -> list[str]:
    """Detection with a model that is here, or with one that the demo trains."""
    from core_runtime.models import nearby_models

    nearby = [folder for folder, kind in nearby_models().items() if kind == "MVPFormer"]
    if nearby:
        return [f"ieeg detect '{path}' --model '{nearby[0]}' --out detections"]
    return ["ieeg demo ieeg-demo", f"ieeg detect '{path}' --model ieeg-demo/run/model --out detections"]


@dataclass(frozen=True)
class Inspection:
    """The findings about a recording."""

    recording: "Recording"
    quality: "Quality"
    seizures: "Seizures"

    @property
    def _neural(self) -> list["Channel"]:
        """The neural channels, bad ones included."""
        return [channel for channel in self.recording.channels if channel.neural]

    @property
    def used(self) -> list[str]:
        """Names of the neural channels that are not bad."""
        return [channel.name for channel in self._neural if channel.name not in self.quality.bads]

    @property
    def level(self) -> float | None:
        """Median over the usable channels of the standard deviation, µV; None if there are none."""
        level = self.quality.microvolts * self.quality.scale
        if math.isnan(level):
            return None
        return level

    @property
    def problem(self) -> str:
        """Why it cannot be used for detection, or ""."""
        if not self._neural:
            return "no neural channel"
        if not self.used:
            return "every neural channel is bad"
        if self.recording.duration < SEGMENT:
            return f"{self.recording.duration:.1f} s is shorter than one segment of {SEGMENT:g} s"
        return ""

    @property
    def summary(self) -> str:
        if self.problem:
            return f"Not usable: {self.problem}."
        duration = in_clock_time(self.recording.duration)
        return f"Usable: {duration}, {len(self.used)} usable channels of {len(self.recording.channels)}."

    @property
    def warnings(self) -> list[str]:
        """Everything unusual, in plain words."""
        quality = self.quality
        warnings = [*self.recording.warnings, *self.seizures.warnings]
        if quality.scale != 1:
            warnings.append(
                f"amplitudes of {quality.microvolts:.1e} µV are impossible: "
                "the file's numbers look like volts, and are taken as volts"
            )
        if quality.microvolts * quality.scale > 5000:
            warnings.append(f"amplitudes of {quality.microvolts:.0f} µV are very large: check the unit in the header")
        slow = sorted({channel.rate for channel in self._neural if channel.rate / 2 < LOWEST_REACH})
        if slow:
            rates = ", ".join(f"{rate:g}" for rate in slow)
            warnings.append(
                f"channels sampled at {rates} Hz hold nothing above half of that rate; "
                "the published models use up to 150 Hz, tiny ones up to 64 Hz"
            )
        if quality.missing:
            warnings.append(f"{quality.missing:.1%} of the samples examined are missing (NaN)")
        if self.recording.gaps:
            lost = sum(end - begin for begin, end in self.recording.gaps)
            warnings.append(f"{len(self.recording.gaps)} gaps, {lost:.1f} s without samples")
        return warnings

    def facts(self) -> dict[str, Any]:
        """For programs."""
        recording = self.recording
        channels = []
        for channel in recording.channels:
            facts = {"name": channel.name, "kind": channel.kind, "rate": channel.rate}
            bad = self.quality.bads.get(channel.name)
            channels.append({**facts, "bad": bad, "position": channel.position})
        annotations = [asdict(event) for event in recording.events[:200]]
        start, seizures = None, None
        if recording.start:
            start = recording.start.isoformat(sep=" ")
        if self.seizures.known:  # an empty list means that there are none, null that nothing is known
            seizures = self.seizures.events.tolist()
        return {
            "recording": str(recording.path),
            "problem": self.problem or None,
            "duration": recording.duration,
            "start": start,
            "rates": {f"{rate:g}": len(indices) for rate, indices in sorted(recording.rates.items())},
            "channels": channels,
            "shafts": {name: len(numbers) for name, numbers in self.shafts.items()},
            "bads": self.quality.bads,
            "mains": recording.power_line or self.quality.line or None,
            "microvolts": self.level,
            "gaps": recording.gaps,
            "seizures": seizures,
            "seizures_from": self.seizures.source or None,
            "annotations": annotations,
        }

    @property
    def shafts(self) -> dict[str, dict[int, int]]:
        from ieeg.recordings.montage import shafts

        return shafts([channel.name for channel in self._neural], [channel.group for channel in self._neural])

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and values for the terminal and the report."""
        recording = self.recording
        kinds = Counter(channel.kind for channel in recording.channels)
        counts = [f"{count} {kind}" for kind, count in kinds.most_common()]
        rates = [f"{len(indices)} at {rate:g} Hz" for rate, indices in sorted(recording.rates.items())]
        start, mains = "not stored", "none stands out"
        if recording.start:
            start = str(recording.start)
        line = recording.power_line or self.quality.line
        if line:
            mains = f"{line:g} Hz"
        amplitude = "unknown: no usable channel"
        if self.level is not None:
            amplitude = f"{self.level:.0f} µV (median over channels)"
        return [
            ("duration", in_clock_time(recording.duration)),
            ("start", start),
            ("channels", ", ".join(counts)),
            ("rates", ", ".join(rates)),
            ("montage", self._montage_words()),
            ("bad channels", _bads_words(self.quality.bads)),
            ("amplitude", amplitude),
            ("mains", mains),
            ("gaps", _spans_words(recording.gaps[:5]) or "none"),
            ("seizures", self._seizure_words()),
        ]

    def _montage_words(self) -> str:
        from ieeg.recordings.montage import is_scalp

        if is_scalp([channel.name for channel in self._neural]):
            return "scalp electrodes (10-20 names), no shafts"
        return ", ".join(_shaft_words(self.shafts)) or "no shafts in the names"

    def _seizure_words(self) -> str:
        if not self.seizures.known:
            return "unknown: no record of whether there are any"
        spans = _spans_words(self.seizures.events[:8]) or "none"
        return f"{spans} (from {self.seizures.source})"

    def picture(self) -> "Figure":
        """Twenty seconds of the neural channels, at the first seizure if one is marked."""
        from ieeg.reports.figures import draw_traces

        recording = self.recording
        channels = range(len(recording.channels))
        shown = [i for i in channels if recording.channels[i].neural] or list(channels)
        # Traces share a time axis: of several rates, only the channels of the commonest are drawn.
        rate = max(recording.rates, key=lambda rate: len(set(recording.rates[rate]) & set(shown)))
        shown = [i for i in shown if recording.channels[i].rate == rate]
        begin = recording.duration / 2 - PICTURE_SECONDS / 2
        if len(self.seizures.events):
            begin = float(self.seizures.events[0, 0]) - 5
        begin = max(0.0, min(begin, recording.duration - PICTURE_SECONDS))
        first, last = int(begin * rate), int((begin + PICTURE_SECONDS) * rate)
        traces = recording.read(shown, first, min(last, recording.samples(rate)))
        return draw_traces(
            traces,
            rate,
            [recording.channels[i].name for i in shown],
            start=begin,
            seizures=self.seizures.events,
            bads=list(self.quality.bads),
            title=recording.name,
        )


def in_clock_time(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, rest = divmod(seconds, 3600)
    return f"{int(hours)} h {int(rest // 60)} min {rest % 60:.0f} s"


def _shaft_words(shafts: dict[str, dict[int, int]]) -> list[str]:
    """Each shaft with the numbers of its first and last contact."""
    words = []
    for name, contacts in shafts.items():
        numbers = f"{min(contacts)}"
        if len(contacts) > 1:
            numbers = f"{min(contacts)}–{max(contacts)}"
        words.append(f"{name} {numbers}")
    return words


def _bads_words(bads: dict[str, str]) -> str:
    words = [f"{name} ({reason})" for name, reason in bads.items()]
    if len(words) > 12:
        return f"{'; '.join(words[:12])} … ({len(words)})"
    return "; ".join(words) or "none"


def _spans_words(spans: Iterable[Any]) -> str:
    return ", ".join(f"{begin:.1f}–{end:.1f} s" for begin, end in spans)
