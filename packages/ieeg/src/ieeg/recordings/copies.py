"""Whether two recordings are the same, or one a part of the other, under different names: by their content, never by their names.

The public SWEC data set is the reason: 18 of its 68 folders are copies of others, and a split by folder tests on training data.

A part is found by its landmarks: samples at which the mean over the channels is the greatest within two seconds on either side. Which samples
these are does not depend on where a recording begins, nor on the file format's rounding or unit, nor on the order of the channels; the distances
between five consecutive ones are practically unique. Of the numbers computed from them the smallest are kept, as in min-wise hashing (Broder
1997), so that a day takes no more room than an hour, and any part of it keeps its share.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.recording import Recording

CHUNKS, SECONDS, SHARES = 8, 2.0, (0.0, 0.25, 0.5, 0.75, 1.0)
TOLERANCE = 2e-3  # relative: formats round differently (EDF has 16 bits)
REACH = 2.0  # seconds on either side of a landmark
RUN = 4  # distances per number
KEPT = 1024  # numbers kept
ENOUGH = 3  # shared numbers that prove a part


@dataclass(frozen=True)
class Signature:
    """The features by which recordings are compared.

    Attributes:
        name, patient, dataset: of the recording. Patients of two data sets with the same label are different patients.
        channels, rate, samples: number of neural channels, their rate in Hz, samples of each.
        values: standard deviations (µV) of the channels in intervals spread over the recording: least, greatest and quartiles of each
            interval, so that neither names nor order nor the file format matter.
        landmarks: numbers that recordings share if they share an interval (see above), at most `KEPT`.
    """

    name: str
    patient: str
    channels: int
    rate: float
    samples: int
    values: tuple[float, ...]
    landmarks: tuple[int, ...] = ()
    dataset: str = ""

    def same_as(self, other: "Signature") -> bool:
        """Whether both are one recording, or share a part of it. A recording without any signal is equal to no other."""
        if len(set(self.landmarks) & set(other.landmarks)) >= ENOUGH:
            return True
        if (self.channels, self.samples) != (other.channels, other.samples) or abs(self.rate - other.rate) > 1e-3:
            return False
        # constant stretches are left out: 0 equals 0 in any two recordings
        mine, theirs = np.array(self.values), np.array(other.values)
        varies = np.maximum(mine, theirs) > 1e-3
        return bool(varies.any()) and bool(np.allclose(mine[varies], theirs[varies], rtol=TOLERANCE))

    def plain(self) -> dict[str, Any]:
        """For JSON; `signature_of` is its inverse."""
        rounded = [float(f"{value:.6g}") for value in self.values]
        return asdict(self) | {"values": rounded}


def signature_of(plain: Mapping[str, Any]) -> Signature:
    """The reverse of `Signature.plain`."""
    fields = dict(plain)
    for name in ("values", "landmarks"):  # JSON has lists only
        fields[name] = tuple(plain.get(name, ()))
    return Signature(**fields)


def signature(recording: Recording, name: str, patient: str, dataset: str = "") -> Signature:
    """The signature of a recording; reads all of it once, a block at a time.

    Raises:
        UserError: the file cannot be read at some place.
    """
    rates: dict[float, list[int]] = {}
    for i, channel in enumerate(recording.channels):
        if channel.neural:
            rates.setdefault(channel.rate, []).append(i)
    if not rates:
        return Signature(name, patient, 0, 0.0, 0, (), dataset=dataset)
    # of several rates, that of most channels
    rate, channels = max(rates.items(), key=lambda item: len(item[1]))
    samples = recording.samples(rate)
    length = min(samples, max(1, round(SECONDS * rate)))
    values: list[float] = []
    for start in np.linspace(0, samples - length, CHUNKS).astype(int):
        stretch = recording.read(channels, int(start), int(start) + length)
        spread = np.nan_to_num(stretch).std(1)
        values += np.quantile(spread, SHARES).tolist()
    landmarks = _landmarks(recording, channels, rate)
    return Signature(name, patient, len(channels), rate, samples, tuple(values), landmarks, dataset)


def _landmarks(recording: Recording, channels: Sequence[int], rate: float) -> tuple[int, ...]:
    """Numbers computed from the distances between consecutive landmarks; the smallest of them, sorted."""
    peaks = np.concatenate([np.zeros(0, np.int64), *_peaks(recording, channels, rate)])
    if len(peaks) <= RUN:
        return ()
    numbers = set()
    for run in np.lib.stride_tricks.sliding_window_view(np.diff(peaks), RUN):
        if len(set(run.tolist())) == RUN:  # else a calibration signal, which looks the same in every recording
            digest = hashlib.blake2b(run.astype("<i8").tobytes(), digest_size=6).digest()
            numbers.add(int.from_bytes(digest))
    return tuple(sorted(numbers)[:KEPT])


def _peaks(recording: Recording, channels: Sequence[int], rate: float) -> Iterator[NDArray[np.int64]]:
    """The landmarks' samples, one block of the recording after another."""
    from scipy.ndimage import maximum_filter1d

    samples, reach = recording.samples(rate), round(REACH * rate)
    step = max(round(60 * rate), 4 * reach)
    for begin in range(reach, samples - reach, step):
        end = min(begin + step, samples - reach)
        # overlapping blocks: a landmark near an edge is compared with its whole surroundings
        mean = np.nan_to_num(recording.read(channels, begin - reach, end + reach)).mean(0, dtype=np.float64)
        inner = mean[reach:-reach]
        greatest = maximum_filter1d(mean, 2 * reach + 1)[reach:-reach] == inner
        # Not on a plateau, where rounding decides which sample is the greatest.
        sharp = (inner > mean[reach - 1 : -reach - 1]) & (inner > mean[reach + 1 : len(mean) - reach + 1])
        yield np.flatnonzero(greatest & sharp) + begin


def copies(signatures: Sequence[Signature]) -> list[list[Signature]]:
    """Groups of two or more signatures of the same recording, each in the given order."""
    groups: list[list[Signature]] = []
    for one in signatures:
        for group in groups:
            if group[0].same_as(one):
                group.append(one)
                break
        else:
            groups.append([one])
    return [group for group in groups if len(group) > 1]


def refuse_copies(signatures: Sequence[Signature]) -> None:
    """Refuses data in which one recording has two names.

    Raises:
        UserError: it names them.
    """
    groups = copies(signatures)
    if groups:
        equations = []
        for group in groups[:4]:
            names = [f"{one.name} ({one.patient})" for one in group]
            equations.append(" = ".join(names))
        named = "; ".join(equations)
        more = ""
        if len(groups) > 4:
            more = f" and {len(groups) - 4} more"
        raise UserError(
            f"the same recording, or parts of one, under different names: {named}{more}",
            "a split by patient would test on training data: remove all but one of each, or let --drop-copies keep the first",
        )


def seen_in_training(provenance: Mapping[str, Any] | None, one: Signature) -> str:
    """Whether a model was trained (or its threshold chosen) on this recording, in words for a reader of its results; "" if not.

    Args:
        provenance: of a model folder (`ieeg.model.folder.LoadedModel.provenance`).
    """
    same_patient = ""
    for plain in (provenance or {}).get("recordings", ()):
        held_out = plain.get("held_out", False)
        known = signature_of({key: value for key, value in plain.items() if key != "held_out"})
        if known.same_as(one):
            use = "its threshold was chosen on" if held_out else "the model was trained on"
            part = "this recording"
            if known.samples != one.samples:
                part = "a part of this recording"
            other_name = ""
            if known.name != one.name:
                other_name = f", as {known.name}"
            return f"{one.name}: {use} {part}{other_name}"
        # kept for the end: a later entry may be this very recording
        if known.patient == one.patient and known.dataset == one.dataset and not held_out:
            same_patient = f"{one.name}: the model was trained on other recordings of patient {one.patient}"
    return same_patient


def namesake_in_training(provenance: Mapping[str, Any] | None, one: Signature) -> str:
    """A patient of the training data who has the same label in another data set, in words; "" if there is none."""
    for plain in (provenance or {}).get("recordings", ()):
        if plain.get("patient") == one.patient and plain.get("dataset", "") != one.dataset:
            return (
                f"the training data hold a patient called {one.patient} as well, in another data set "
                f"({plain.get('dataset') or 'not named'}): if it is the same, this is not a test of the model"
            )
    return ""


def refuse_leaks(learned: Iterable[Signature], judged: Iterable[Signature]) -> None:
    """Refuses to evaluate on training data: the same recording, whatever its name, or the same patient.

    Raises:
        UserError: it names them.
    """
    learned = list(learned)
    for one in judged:
        twin = next((known for known in learned if known.same_as(one)), None)
        if twin is not None:
            leak = f"{one.name} is in the training data"
            if one.name != twin.name:
                leak = f"{one.name} is {twin.name} of the training data under another name"
            raise UserError(leak, "evaluate on recordings that the model has not seen")
        if any(known.patient == one.patient for known in learned):
            raise UserError(
                f"{one.name}: patient {one.patient} is in the training data", "split by patient, not by recording"
            )
