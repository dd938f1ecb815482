"""The channels that are used and their references: shafts, bipolar and Laplacian derivations, common references, the choice of at most 32."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ieeg.recordings.settings import Reference


def contact(name: str) -> tuple[str, int] | None:
    """The shaft (letters and apostrophe) and the number of a contact, ``L'12`` → ``("L'", 12)``; None if the name is not a contact's."""
    match = re.fullmatch(r"([^\W\d]+[A-Za-z_ ]*['’`´]?)\s*[-_]?\s*0*(\d+)", name.strip())
    if match is None:
        return None
    return match[1].strip(), int(match[2])


# Numbers of the 10-10 system's electrodes by letters; those of the midline end in z.
_SCALP = {
    "fp": (1, 2), "af": (1, 8), "f": (1, 10), "ft": (7, 10), "fc": (1, 6), "t": (3, 10), "c": (1, 6), "tp": (7, 10), "cp": (1, 6),
    "p": (1, 10), "po": (1, 10), "o": (1, 2), "a": (1, 2), "m": (1, 2),
}  # fmt: skip


def is_scalp(names: Sequence[str]) -> bool:
    """Whether these are names of scalp electrodes: eight or more of the 10-20 or 10-10 system, both sides, and hardly any other."""
    electrodes = [name.strip().casefold() for name in names]
    scalp = [name for name in electrodes if _is_scalp_name(name)]
    # A shaft may be called C or O as well; but Fp1 beside Fp2, for example, occurs only in a scalp montage.
    pairs = ({"fp1", "fp2"}, {"c3", "c4"}, {"o1", "o2"})
    both_sides = any(pair <= set(electrodes) for pair in pairs)
    return len(scalp) >= 8 and both_sides and len(scalp) >= 0.9 * len(electrodes)


def _is_scalp_name(name: str) -> bool:
    if re.fullmatch(r"(fp|af|f|fc|c|cp|p|po|o|i)z", name):
        return True
    match = re.fullmatch(r"([a-z]+)(\d+)", name)
    if match is None or match[1] not in _SCALP:
        return False
    low, high = _SCALP[match[1]]
    return low <= int(match[2]) <= high


def shafts(names: Sequence[str], groups: Sequence[str] | None = None) -> dict[str, dict[int, int]]:
    """Contacts by shaft: ``{shaft: {number: index}}``, in the order of the names; empty for scalp electrodes.

    Args:
        groups: of a BIDS channels.tsv, if it has them. A group may be finer than the letters of the names (and then separates shafts) or
            coarser ("depth" for all): contacts of different letters are never on one shaft.
    """
    if is_scalp(names):
        return {}
    contacts = [contact(name) for name in names]
    groups_of: dict[str, set[str]] = {}  # of the contacts with the same letters
    for place, group in zip(contacts, groups or [""] * len(names), strict=True):
        if place:
            groups_of.setdefault(place[0], set()).add(group)
    by_shaft: dict[str, dict[int, int]] = {}
    for i, place in enumerate(contacts):
        if place is None:
            continue
        letters, number = place
        shaft = letters
        if groups is not None and len(groups_of[letters]) > 1:  # groups finer than letters: left and right, say
            shaft = f"{groups[i]} {letters}".strip()
        by_shaft.setdefault(shaft, {}).setdefault(number, i)
    return by_shaft


@dataclass(frozen=True)
class Derivation:
    """A channel computed from others: signal `plus` less the mean of `minus`."""

    name: str
    plus: int
    minus: tuple[int, ...] = ()


def derivations(names: Sequence[str], reference: Reference, groups: Sequence[str] | None = None) -> list[Derivation]:
    """The channels after referencing.

    Bipolar: neighbours by number on one shaft (A1-A2), never across a gap or between shafts. Laplacian: each contact less the mean of its
    neighbours on the shaft; a contact without neighbours is left out. Median, average and none keep every channel.
    """
    if reference not in ("bipolar", "laplacian"):
        return [Derivation(name, i) for i, name in enumerate(names)]
    derived = []
    for contacts in shafts(names, groups).values():
        for number in sorted(contacts):
            here = contacts[number]
            before, after = contacts.get(number - 1), contacts.get(number + 1)
            if reference == "bipolar":
                if after is not None:
                    derived.append(Derivation(f"{names[here]}-{names[after]}", here, (after,)))
                continue
            neighbours = tuple(index for index in (before, after) if index is not None)
            if neighbours:
                derived.append(Derivation(names[here], here, neighbours))
    return derived


def rereference(
    x: Float[np.ndarray, "channels samples"], derived: Sequence[Derivation], reference: Reference
) -> Float[np.ndarray, "derived samples"]:
    """Applies the derivations, or the common median or average of all channels; a single channel has no common reference."""
    if len(x) == 1:  # its own median would leave nothing of it
        return x
    if reference == "median":
        return x - channel_median(x)
    if reference == "average":
        return x - x.mean(0, keepdims=True)
    if reference == "none":
        return x
    out = x[[derivation.plus for derivation in derived]]
    for row, derivation in zip(out, derived, strict=True):
        row -= x[list(derivation.minus)].mean(0)
    return out


def channel_median(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "1 samples"]:
    """The median over channels, (1, samples), computed piece by piece, so that each fits into the cache."""
    upper = len(x) // 2
    lower = upper  # the two middle ranks, the same one for an odd number
    if len(x) % 2 == 0:
        lower = upper - 1
    out = np.empty((1, x.shape[1]), x.dtype)
    for begin in range(0, x.shape[1], 4096):
        block = np.ascontiguousarray(x[:, begin : begin + 4096].T)
        block = np.partition(block, [lower, upper], axis=1)
        # halved first: the sum of two large float32 could overflow
        out[0, begin : begin + 4096] = block[:, lower] / 2 + block[:, upper] / 2
    return out


def choose_channels(probes: Sequence[Float[np.ndarray, "channels samples"]], keep: int) -> NDArray[np.intp]:
    """The paper's choice of channels at test time: the `keep` greatest by ``r = var / (1 + kurtosis)``, in their own order.

    Kurtosis is Pearson's (3 for a normal signal). r is the median over the probes, so that one artefact does not decide; channels that are flat
    in most probes come last.
    """
    ratios = np.stack([_variance_to_kurtosis(np.asarray(probe, np.float64)) for probe in probes])
    order = np.argsort(-np.median(ratios, 0), kind="stable")
    return np.sort(order[:keep])


def _variance_to_kurtosis(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, " channels"]:
    """``var / (1 + kurtosis)`` of each channel; 0 for a flat one."""
    x = x - x.mean(1, keepdims=True)
    variance = np.square(x).mean(1)
    safe = np.where(variance > 0, variance, 1.0)
    kurtosis = (x**4).mean(1) / safe**2
    return variance / (1 + kurtosis)
