"""Simulated patients as a BIDS-iEEG data set of real EDF+ files: seizures that spread over shafts, spikes, artefacts, mains hum, odd channels.

The seizures follow the course of the Epileptor (Jirsa et al., Brain 2014): fast discharges that slow down and grow into spike-and-wave bursts,
then stop at once; they begin on a few neighbouring contacts and recruit others with a delay. The background has a 1/f spectrum.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing

RATES = (256, 512, 500, 256, 1024)  # Hz, of the patients in turn
MAINS = 50.0


@dataclass(frozen=True)
class SampleOptions:
    """Size of the simulation: patients, runs of each, seconds of a run, and the seed; `first` is the first patient's number.

    Rates and channel counts vary from patient to patient.
    """

    patients: int = 4
    runs: int = 1
    seconds: int = 600
    seed: int = 0
    rates: Sequence[int] = RATES
    channels: tuple[int, int] = (8, 16)
    first: int = 1


@dataclass(frozen=True)
class Simulated:
    """One run: signals in microvolts, and what is in them."""

    values: Float[np.ndarray, "channels samples"]
    rate: int
    names: list[str]
    seizures: list[tuple[float, float]]
    onset_channels: list[str]
    bad: str
    artefacts: list[tuple[float, float]]


def simulate(options: SampleOptions, patient: int, run: int) -> Simulated:
    """The signals of one run of a patient, the same under a seed."""
    # `fixed` draws what stays the same in all runs of a patient: electrodes, onset zone, hum.
    fixed = np.random.default_rng([options.seed, patient])
    rng = np.random.default_rng([options.seed, patient, run + 1])
    rate = int(options.rates[patient % len(options.rates)])
    count = int(fixed.integers(options.channels[0], options.channels[1] + 1))
    names = _names(count, fixed)
    samples = options.seconds * rate
    x = _background(count, samples, rate, rng)
    onset_zone = int(fixed.integers(0, count - 2))
    seizures = _times(options.seconds, rng)
    for onset, offset in seizures:
        strength = rng.uniform(0.5, 1.0)
        for channel in range(count):
            # contacts further away join later and more weakly
            distance = abs(channel - onset_zone - 0.5) // 2
            delay, gain = 1.5 * distance + rng.uniform(0, 0.8), 1.6 * np.exp(-distance / 3.5)
            begin, end = int((onset + delay) * rate), int(offset * rate)
            if end - begin > rate:
                x[channel, begin:end] += strength * gain * 60 * _epileptor((end - begin) / rate, end - begin, rng)
    _spikes(x, rate, onset_zone, rng)
    artefacts = _artefacts(x, rate, seizures, options.seconds, rng)
    t = np.arange(samples) / rate
    x += fixed.uniform(2, 8, (count, 1)) * np.sin(2 * np.pi * MAINS * t + fixed.uniform(0, 6, (count, 1)))
    x += fixed.normal(0, 150, (count, 1))  # offsets of the amplifier
    # One bad channel, away from the onset zone: flat in every second patient, far too loud in the others.
    bad = int((onset_zone + count // 2) % count)
    if patient % 2:
        x[bad] = 12.0
    else:
        x[bad] = 9 * x[bad] + 2500 * rng.normal(size=samples)
    return Simulated(x, rate, names, seizures, names[onset_zone : onset_zone + 2], names[bad], artefacts)


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """Names of contacts, shaft by shaft."""
    letters = rng.permutation(["A", "B", "C'", "H", "L'", "T", "O'"])
    per_shaft = max(4, -(-count // 3))
    return [f"{letters[i // per_shaft]}{i % per_shaft + 1}" for i in range(count)]


def _background(count: int, samples: int, rate: int, rng: np.random.Generator) -> Float[np.ndarray, "channels samples"]:
    """1/f noise, partly common to neighbours, about 35 µV."""
    from scipy import fft

    # coloured in the spectrum: a power of 1/f**1.6, flat below 0.3 Hz
    white = np.asarray(fft.rfft(rng.standard_normal((count, samples), np.float32), axis=1))
    frequencies = np.maximum(np.arange(white.shape[1]) * rate / samples, 0.3)
    x = np.asarray(fft.irfft(white * (1 / frequencies**0.8).astype(np.float32), samples, axis=1))
    x += 0.6 * np.roll(x, 1, 0) + 0.3 * np.roll(x, 2, 0)
    return (35 * x / x.std()).astype(np.float32)


def _times(seconds: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """One seizure in five minutes, 30 to 70 s long, away from the ends: (onset, offset) in seconds."""
    slots = max(1, seconds // 300)
    width = seconds / slots
    times = []
    for i in range(slots):
        length = float(min(rng.uniform(30, 70), 0.3 * width))
        onset = float(i * width + rng.uniform(0.15 * width, 0.9 * width - length))
        times.append((round(onset, 2), round(onset + length, 2)))
    return times


def _epileptor(seconds: float, samples: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """A discharge that slows from about 13 Hz to 2.5 Hz and grows, each beat a spike and a slow wave, over a slow shift."""
    u = np.linspace(0, 1, samples, dtype=np.float32)
    frequency = (13 - 10.5 * u**0.6) * (1 + 0.08 * np.interp(u, np.linspace(0, 1, 12), rng.normal(size=12)))
    phase = np.cumsum(frequency) * (seconds / samples)
    beat = phase % 1
    # a narrow spike, then a broad wave of the opposite sign
    shape = np.exp(-(((beat - 0.2) / 0.06) ** 2)) - 0.6 * np.exp(-(((beat - 0.55) / 0.2) ** 2))
    envelope = (0.5 + u) * np.minimum(1, seconds * u / 2)
    return (envelope * 2.2 * shape + 0.5 * np.sin(np.pi * u)).astype(np.float32)


def _spikes(x: Float[np.ndarray, "channels samples"], rate: int, zone: int, rng: np.random.Generator) -> None:
    """Interictal spikes, one in twenty seconds, around the onset zone."""
    width = int(0.25 * rate)
    t = np.linspace(-0.1, 0.15, width)
    shape = 180 * (np.exp(-((t / 0.015) ** 2)) - 0.5 * np.exp(-(((t - 0.08) / 0.04) ** 2)))
    for at in rng.integers(0, x.shape[1] - width, x.shape[1] // rate // 20):
        for c in range(max(0, zone - 1), min(len(x), zone + 3)):
            x[c, at : at + width] += rng.uniform(0.4, 1) * shape


def _artefacts(
    x: Float[np.ndarray, "channels samples"],
    rate: int,
    seizures: Sequence[tuple[float, float]],
    seconds: int,
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    """Muscle, chewing and movement, as loud as a seizure or louder, on many channels, outside the seizures."""
    intervals = []
    for i in range(max(2, seconds // 50)):
        length = float(rng.uniform(8, 35))
        onset = float(rng.uniform(2, seconds - length - 2))
        # 15 s away from any seizure: the truth of the samples must be unambiguous
        if any(onset < offset + 15 and begin - 15 < onset + length for begin, offset in seizures):
            continue
        begin, end = int(onset * rate), int((onset + length) * rate)
        affected = rng.random(len(x)) < 0.7
        muscle = rng.normal(size=(int(affected.sum()), end - begin))
        movement = np.cumsum(rng.normal(size=end - begin)) / np.sqrt(rate)
        chewing: float | np.ndarray = 1.0
        if i % 2:
            times = np.arange(end - begin) / rate
            chewing = np.clip(np.sin(2 * np.pi * rng.uniform(0.8, 1.6) * times), 0, 1)
        window = rng.uniform(1, 3) * np.minimum(1, 4 * np.hanning(end - begin))
        x[affected, begin:end] += (window * (90 * chewing * muscle + 120 * movement)).astype(np.float32)
        intervals.append((round(onset, 2), round(onset + length, 2)))
    return sorted(intervals)


def make_samples(out: Path, options: SampleOptions | None = None, *, overwrite: bool = False) -> list[Path]:
    """Writes the data set and returns its recordings.

    Raises:
        UserError: `out` holds a data set already and `overwrite` is off, or holds other files.
    """
    options = options or SampleOptions()
    description = out / "dataset_description.json"
    if description.exists() and not overwrite:
        raise UserError(f"{out} already holds a data set", "--overwrite replaces it, another folder keeps both")
    if description.exists():  # only a data set's own folders are removed
        for old in out.glob("sub-*"):
            shutil.rmtree(old)
    about = {
        "Name": f"Simulated intracranial recordings, seed {options.seed}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "License": "CC0",
    }
    about["GeneratedBy"] = [{"Name": "ieeg sample"}]  # pyright: ignore[reportArgumentType]
    write_text(description, json.dumps(about, indent=1) + "\n")
    write_text(out / "README", "Simulated recordings, made by 'ieeg sample'. They are not data of a real person.\n")
    paths, rows = [], ["participant_id\tage\tsex"]
    for patient in range(options.first - 1, options.first - 1 + options.patients):
        rows.append(f"sub-{patient + 1:02}\tn/a\tn/a")
        for run in range(options.runs):
            folder = out / f"sub-{patient + 1:02}" / "ieeg"
            stem = f"sub-{patient + 1:02}_task-ltm_run-{run + 1:02}"
            paths.append(_write(folder, stem, simulate(options, patient, run), run))
    write_text(out / "participants.tsv", "\n".join(rows) + "\n")
    return paths


def _write(folder: Path, stem: str, simulated: Simulated, run: int) -> Path:
    """Writes a run as EDF+, with its BIDS sidecars."""
    import datetime

    import edfio

    rate, names = simulated.rate, simulated.names
    seconds = simulated.values.shape[1] / rate
    signals = [_signal(values, rate, name) for values, name in zip(simulated.values, names, strict=True)]
    signals.append(_signal(_heart(seconds), 128, "ECG"))
    notes = [edfio.EdfAnnotation(begin, end - begin, "artefact") for begin, end in simulated.artefacts]
    path = folder / f"{stem}_ieeg.edf"
    with writing(path) as part:
        edfio.Edf(
            signals,
            recording=edfio.Recording(startdate=datetime.date(2024, 2, 1 + run)),
            starttime=datetime.time(23, 55, 0),  # past midnight within minutes, which readers must cope with
            annotations=notes,
        ).write(part)
    channels = ["name\ttype\tunits\tlow_cutoff\thigh_cutoff\tsampling_frequency\tgroup\tstatus\tstatus_description"]
    shafts = [name.rstrip("0123456789") for name in names]
    for name, shaft in zip(names, shafts, strict=True):
        channels.append(f"{name}\tSEEG\tµV\tn/a\tn/a\t{rate}\t{shaft}\tgood\tn/a")
    channels.append("ECG\tECG\tµV\tn/a\tn/a\t128\tn/a\tgood\tn/a")
    write_text(folder / f"{stem}_channels.tsv", "\n".join(channels) + "\n")
    number_of = {shaft: number for number, shaft in enumerate(dict.fromkeys(shafts))}
    electrodes = ["name\tx\ty\tz\tsize"]
    for name, shaft in zip(names, shafts, strict=True):
        depth, place = int(name[len(shaft) :]), number_of[shaft]
        electrodes.append(f"{name}\t{-20 - 4 * depth}\t{18 * place - 20}\t{10 + 5 * place}\t5")
    subject = stem.split("_")[0]
    write_text(folder / f"{subject}_electrodes.tsv", "\n".join(electrodes) + "\n")
    system = {"iEEGCoordinateSystem": "Other", "iEEGCoordinateUnits": "mm"}
    system["iEEGCoordinateSystemDescription"] = "simulated"
    write_text(folder / f"{subject}_coordsystem.json", json.dumps(system, indent=1) + "\n")
    events = ["onset\tduration\teventType\tconfidence\tchannels\tdateTime\trecordingDuration"]
    involved = ",".join(simulated.onset_channels)
    start = f"2024-02-{1 + run:02} 23:55:00"
    for onset, offset in simulated.seizures:
        events.append(f"{onset:.2f}\t{offset - onset:.2f}\tsz\tn/a\t{involved}\t{start}\t{seconds:.2f}")
    write_text(folder / f"{stem}_events.tsv", "\n".join(events) + "\n")
    about = {
        "TaskName": "ltm",
        "SamplingFrequency": rate,
        "PowerLineFrequency": MAINS,
        "iEEGReference": "simulated",
    }
    counts = {"SEEGChannelCount": len(names), "ECGChannelCount": 1}
    about |= {"SoftwareFilters": "n/a", "RecordingDuration": seconds, **counts}
    write_text(folder / f"{stem}_ieeg.json", json.dumps(about, indent=1) + "\n")
    return path


def _signal(values: Float[np.ndarray, " samples"], rate: int, name: str):
    import edfio

    # EDF stores 16-bit integers over this range: wider than needed, it would lose resolution
    limit = float(np.ceil(max(np.abs(values).max() * 1.02, 1.0)))
    return edfio.EdfSignal(
        values.astype(np.float64), rate, label=name, physical_dimension="uV", physical_range=(-limit, limit)
    )


def _heart(seconds: float) -> Float[np.ndarray, " samples"]:
    t = np.arange(int(seconds * 128)) / 128
    return 700 * np.exp(-(((((t * 1.1) % 1) - 0.5) / 0.02) ** 2))
