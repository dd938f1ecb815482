"""What BIDS sidecars say that the recording says, too: rates, units, counts, lengths. The recording is believed, and a difference is said.

A sidecar that differs may belong to another recording; then its types, bad channels and seizures are wrong as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ieeg.recordings.recording import NEURAL, Channel, Recording, microvolts, some_of

# Of channels.tsv, in lower case; what is not neural, cardiac, ocular, muscular or a trigger is of no use here.
TYPES = frozenset(
    {
        "eeg", "ecog", "seeg", "dbs", "veog", "heog", "eog", "ecg", "emg", "trig", "stim", "audio", "pd", "eyegaze", "pupil", "misc",
        "sysclock", "adc", "dac", "ref", "other", "gsr", "resp", "temp",
    }
)  # fmt: skip
COUNTS = ("SEEGChannelCount", "ECOGChannelCount", "EEGChannelCount")
_UNIT_FORMATS = (".edf", ".bdf", ".rec")  # whose header tells the unit of each channel


def unlike_channels(
    rows: Mapping[str, Mapping[str, str | None]], channels: Sequence[tuple[Channel, str]], recording: Recording
) -> Iterator[str]:
    """In what channels.tsv differs from the channels, or is not understood.

    Args:
        rows: of channels.tsv, by channel.
        channels: the recording's, each with the key of its row.
        recording: whose they are.
    """
    rates, units, types, statuses, absent = [], [], [], [], []
    knows_units = recording.path.suffix.lower() in _UNIT_FORMATS
    for channel, key in channels:
        row = rows.get(key)
        if row is None:
            if channel.neural:
                absent.append(channel.name)
            continue
        rate, unit = _number(row.get("sampling_frequency")), (row.get("units") or "").strip()
        if rate is not None and abs(rate - channel.rate) > 1e-3 * channel.rate:
            rates.append(f"{channel.name} ({rate:g}, not {channel.rate:g} Hz)")
        if knows_units and unit and channel.unit.strip() and microvolts(unit) != microvolts(channel.unit):
            units.append(f"{channel.name} ({unit}, not {channel.unit.strip()})")
        bids_type, status = (row.get("type") or "").strip(), (row.get("status") or "").strip()
        if bids_type and bids_type.lower() not in TYPES:
            types.append(f"{channel.name} ({bids_type!r})")
        if status.lower() not in ("", "good", "bad"):
            statuses.append(f"{channel.name} ({status!r})")
    if rates:
        yield f"has another sampling rate than the file for {some_of(rates)}: the file's is taken"
    if units:
        yield f"has another unit than the file for {some_of(units)}: the file's is taken"
    if types:
        yield f"has types that BIDS does not know, of {some_of(types)}: left out"
    if statuses:
        yield f"has a status that is neither good nor bad, of {some_of(statuses)}: taken as good"
    if absent:
        yield f"has no row for {some_of(absent)}: their type is guessed from the name"


def unlike_recording(about: Mapping[str, Any], recording: Recording) -> Iterator[str]:
    """In what ieeg.json differs from the recording, or is not understood."""
    rate = _number(about.get("SamplingFrequency"))
    if rate is not None and not any(abs(rate - own) <= 1e-3 * own for own in recording.rates):
        own_rates = ", ".join(f"{own:g}" for own in recording.rates)
        yield f"says {rate:g} Hz, the file {own_rates} Hz: the file's is taken"
    duration = _number(about.get("RecordingDuration"))
    if duration is not None and abs(duration - recording.duration) > max(1.0, 0.01 * recording.duration):
        yield f"says that the recording lasts {duration:g} s, the file holds {recording.duration:g} s"
    counts = [_number(about.get(name)) for name in COUNTS]
    neural = sum(channel.kind in NEURAL for channel in recording.channels)
    if any(counts) and sum(count or 0 for count in counts) != neural:
        stated = ", ".join(f"{name} {count:g}" for name, count in zip(COUNTS, counts, strict=True) if count is not None)
        yield f"says {stated}, the recording has {neural} channels of the brain"
    line = about.get("PowerLineFrequency")
    if line is not None and line != "n/a" and mains(about) == 0:
        yield f"gives {line!r} as PowerLineFrequency, which is neither 50 nor 60: left to the spectrum"


def mains(about: Mapping[str, Any]) -> float:
    """The mains frequency of ieeg.json in Hz; 0 where it does not say one."""
    line = about.get("PowerLineFrequency")
    if isinstance(line, bool) or not isinstance(line, (int, float)) or line not in (50, 60):
        return 0.0
    return float(line)


def _number(value: Any) -> float | None:
    """A number, also as text; None of anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None
