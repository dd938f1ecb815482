"""Which channels are used and against what they are referenced: shafts, bipolar and Laplacian derivations, common references, the choice of at most 32."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ieeg.recordings.settings import Reference


def contact(name: str) -> tuple[str, int] | None:
    """The shaft (letters and apostrophe) and the number of a contact, ``L'12`` → ``("L'", 12)``; None if the name is not one."""
    match = re.fullmatch(r"([^\W\d]+[A-Za-z_ ]*['’`´]?)\s*[-_]?\s*0*(\d+)", name.strip())
    return (match[1].strip(), int(match[2])) if match else None


def shafts(names: Sequence[str], groups: Sequence[str] | None = None) -> dict[str, dict[int, int]]:
    """Contacts by shaft: ``{shaft: {number: index}}``, in the order of the names. `groups`: of a BIDS channels.tsv, where it has them."""
    found: dict[str, dict[int, int]] = {}
    for i, name in enumerate(names):
        place = contact(name)
        if place:
            shaft = (groups[i] if groups else "") or place[0]
            found.setdefault(shaft, {}).setdefault(place[1], i)
    return found


@dataclass(frozen=True)
class Derivation:
    """A channel that is computed from others: signal `plus` less the mean of `minus`."""

    name: str
    plus: int
    minus: tuple[int, ...] = ()


def derivations(names: Sequence[str], reference: Reference, groups: Sequence[str] | None = None) -> list[Derivation]:
    """The channels after referencing.

    Bipolar: neighbours by number on one shaft (A1-A2), never across a gap or from shaft to shaft. Laplacian: each contact less the mean of its
    neighbours on the shaft; a contact without any is left out. Median, average and none keep every channel.
    """
    if reference not in ("bipolar", "laplacian"):
        return [Derivation(name, i) for i, name in enumerate(names)]
    out = []
    for numbers in shafts(names, groups).values():
        for number in sorted(numbers):
            here = numbers[number]
            if reference == "bipolar":
                if number + 1 in numbers:
                    there = numbers[number + 1]
                    out.append(Derivation(f"{names[here]}-{names[there]}", here, (there,)))
            else:
                beside = tuple(numbers[n] for n in (number - 1, number + 1) if n in numbers)
                if beside:
                    out.append(Derivation(names[here], here, beside))
    return out


def rereference(
    x: Float[np.ndarray, "channels samples"], derived: Sequence[Derivation], reference: Reference
) -> Float[np.ndarray, "derived samples"]:
    """Applies the derivations, and the common median or average of all channels where asked; one channel alone has no common reference."""
    if len(x) == 1:
        return x
    if reference == "median":
        return x - channel_median(x)
    if reference == "average":
        return x - x.mean(0, keepdims=True)
    if reference == "none":
        return x
    out = x[[d.plus for d in derived]]
    for row, d in zip(out, derived, strict=True):
        row -= x[list(d.minus)].mean(0)
    return out


def channel_median(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "1 samples"]:
    """The median over channels, (1, samples), by pieces that fit the cache."""
    middle, even = len(x) // 2, len(x) % 2 == 0
    out = np.empty((1, x.shape[1]), x.dtype)
    for begin in range(0, x.shape[1], 4096):
        block = np.partition(np.ascontiguousarray(x[:, begin : begin + 4096].T), [middle - even, middle], axis=1)
        out[0, begin : begin + 4096] = block[:, middle - even] / 2 + block[:, middle] / 2
    return out


def choose_channels(probes: Sequence[Float[np.ndarray, "channels samples"]], keep: int) -> NDArray[np.intp]:
    """The paper's choice of channels at test time: the `keep` greatest by ``r = var / (1 + kurtosis)``, in their order.

    Kurtosis is Pearson's (3 for a normal signal). r is the median over the probes, so that one artefact does not decide; channels that are flat
    in most probes come last.
    """
    ranks = np.stack([_rank(np.asarray(p, np.float64)) for p in probes])
    order = np.argsort(-np.median(ranks, 0), kind="stable")
    return np.sort(order[:keep])


def _rank(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, " channels"]:
    x = x - x.mean(1, keepdims=True)
    variance = np.square(x).mean(1)
    safe = np.where(variance > 0, variance, 1.0)
    kurtosis = (x**4).mean(1) / safe**2
    return variance / (1 + kurtosis)
