"""The first look at a recording: montage, bad channels with reasons, rates, gaps, duration, seizures, a picture, and whether it can be used."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.suite import Glance
from ieeg.recordings.bids import find_recordings
from ieeg.recordings.montage import shafts
from ieeg.recordings.quality import Quality, examine
from ieeg.recordings.recording import Recording, open_recording, recognises, some_of
from ieeg.recordings.seizures import Seizures, seizures_of

SEGMENT = 5.0  # of the published models, seconds
PICTURE_SECONDS = 20.0


@dataclass(frozen=True)
class Inspection:
    """What a recording holds."""

    recording: Recording
    quality: Quality
    seizures: Seizures

    @property
    def used(self) -> list[str]:
        """Names of the neural channels that are not bad."""
        return [c.name for c in self.recording.channels if c.neural and c.name not in self.quality.bads]

    @property
    def level(self) -> float | None:
        """Median over the usable channels of the standard deviation, µV; None without any."""
        found = self.quality.microvolts * self.quality.scale
        return None if math.isnan(found) else found

    @property
    def problem(self) -> str:
        """Why it cannot be used for detection, or ""."""
        if not any(c.neural for c in self.recording.channels):
            return "no neural channel"
        if not self.used:
            return "every neural channel is bad"
        if self.recording.duration < SEGMENT:
            return f"{self.recording.duration:.1f} s are shorter than one segment of {SEGMENT:g} s"
        return ""

    @property
    def warnings(self) -> list[str]:
        """Everything odd, in plain words."""
        q, found = self.quality, [*self.recording.warnings, *self.seizures.warnings]
        if q.scale != 1:
            found.append(
                f"amplitudes of {q.microvolts:.1e} µV are impossible: the file's numbers look like volts, and are taken as such"
            )
        if q.microvolts * q.scale > 5000:
            found.append(f"amplitudes of {q.microvolts:.0f} µV are very large: check the unit in the header")
        if q.missing:
            found.append(f"{q.missing:.1%} of the samples looked at are missing (NaN)")
        if self.recording.gaps:
            lost = sum(b - a for a, b in self.recording.gaps)
            found.append(f"{len(self.recording.gaps)} gaps, {lost:.1f} s without samples")
        return found

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        r = self.recording
        return {
            "recording": str(r.path),
            "kind": recognises(r.path),
            "usable": not self.problem,
            "problem": self.problem or None,
            "duration": r.duration,
            "start": r.start.isoformat(sep=" ") if r.start else None,
            "rates": {f"{rate:g}": len(indices) for rate, indices in sorted(r.rates.items())},
            "channels": [
                {
                    "name": c.name,
                    "kind": c.kind,
                    "rate": c.rate,
                    "bad": self.quality.bads.get(c.name),
                    "position": c.position,
                }
                for c in r.channels
            ],
            "shafts": {name: len(numbers) for name, numbers in self.shafts.items()},
            "bads": self.quality.bads,
            "mains": r.power_line or self.quality.line or None,
            "microvolts": self.level,
            "gaps": r.gaps,
            "seizures": self.seizures.events.tolist() if self.seizures.known else None,
            "seizures_from": self.seizures.source or None,
            "annotations": [{"onset": e.onset, "duration": e.duration, "label": e.label} for e in r.events[:200]],
            "warnings": self.warnings,
        }

    @property
    def shafts(self) -> dict[str, dict[int, int]]:
        neural = [c for c in self.recording.channels if c.neural]
        return shafts([c.name for c in neural], [c.group for c in neural])

    @property
    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        r = self.recording
        kinds = Counter(c.kind for c in r.channels)
        grouped = ", ".join(f"{n} {min(c)}–{max(c)}" if len(c) > 1 else f"{n} {min(c)}" for n, c in self.shafts.items())
        bads = self.quality.bads
        seizures = (
            ", ".join(f"{a:.1f}–{b:.1f} s" for a, b in self.seizures.events[:8]) or "none"
            if self.seizures.known
            else "nothing says whether there are any"
        )
        return [
            ("duration", _clock(r.duration)),
            ("start", str(r.start) if r.start else "not stored"),
            ("channels", ", ".join(f"{n} {k}" for k, n in kinds.most_common())),
            ("rates", ", ".join(f"{len(i)} at {rate:g} Hz" for rate, i in sorted(r.rates.items()))),
            ("montage", grouped or "no shafts in the names"),
            (
                "bad channels",
                "; ".join(f"{n} ({why})" for n, why in list(bads.items())[:12])
                + (f" … ({len(bads)})" if len(bads) > 12 else "")
                or "none",
            ),
            (
                "amplitude",
                "no channel to tell it from" if self.level is None else f"{self.level:.0f} µV (median over channels)",
            ),
            (
                "mains",
                f"{r.power_line or self.quality.line:g} Hz" if r.power_line or self.quality.line else "none stands out",
            ),
            ("gaps", ", ".join(f"{a:.1f}–{b:.1f} s" for a, b in r.gaps[:5]) or "none"),
            ("seizures", seizures + (f" (from {self.seizures.source})" if self.seizures.known else "")),
        ]

    def picture(self):
        """Twenty seconds of the neural channels, at the first seizure if one is marked."""
        from ieeg.reports.figures import draw_traces

        r = self.recording
        shown = [i for i, c in enumerate(r.channels) if c.neural] or list(range(len(r.channels)))
        rate = max(r.rates, key=lambda f: len(set(r.rates[f]) & set(shown)))
        shown = [i for i in shown if r.channels[i].rate == rate]
        at = (
            float(self.seizures.events[0, 0]) - 5 if len(self.seizures.events) else r.duration / 2 - PICTURE_SECONDS / 2
        )
        at = max(0.0, min(at, r.duration - PICTURE_SECONDS))
        x = r.read(shown, int(at * rate), min(int((at + PICTURE_SECONDS) * rate), r.samples(rate)))
        names = [r.channels[i].name for i in shown]
        return draw_traces(
            x, rate, names, start=at, seizures=self.seizures.events, bads=list(self.quality.bads), title=r.name
        )


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(hours)} h {int(rest // 60)} min {rest % 60:.0f} s"


def inspect_one(path: Path) -> Inspection:
    """Looks at one recording; reads a few seconds here and there.

    Raises:
        UserError: it cannot be read.
    """
    recording = open_recording(path)
    return Inspection(recording, examine(recording), seizures_of(recording))


@dataclass(frozen=True)
class Inspected:
    """What a folder holds: the recordings that can be read, and of the others, why not."""

    found: list[Inspection]
    unreadable: dict[str, str]


def inspect(path: Path) -> Inspected:
    """A recording, a folder or a BIDS data set.

    Raises:
        UserError: nothing there, or a single recording that cannot be read.
    """
    items = find_recordings(path)
    if len(items) == 1:
        return Inspected([inspect_one(items[0].path)], {})
    found, unreadable = [], {}
    for item in track(items, "Inspecting"):
        try:
            found.append(inspect_one(item.path))
        except UserError as error:
            unreadable[item.name] = error.message
    return Inspected(found, unreadable)


def glance(path: Path) -> Glance:
    """For ``attention-suite try``."""
    from ieeg.model.folder import RESEARCH_ONLY

    inspected = inspect(path)
    if not inspected.found:
        raise UserError(
            f"none of the recordings of {path.name} can be read", some_of(list(inspected.unreadable.values()), 2)
        )
    first = inspected.found[0]
    summary = (
        f"{_clock(first.recording.duration)}, {len(first.used)} usable channels of {len(first.recording.channels)}"
    )
    if len(inspected.found) > 1:
        summary = f"{len(inspected.found)} recordings; the first: {summary}"
    command = f"ieeg detect '{path}' --model MODEL --out detections"
    return Glance(
        title=f"Recording {first.recording.name}",
        usable=not first.problem,
        summary=first.problem or summary,
        facts=first.rows,
        pictures=[
            (first.picture(), "As it was recorded, neural channels; bad ones in orange, marked seizures shaded.")
        ],
        next_commands=[command, "ieeg models    # which models there are, and how to train one"],
        warnings=[*first.warnings, RESEARCH_ONLY],
    )
