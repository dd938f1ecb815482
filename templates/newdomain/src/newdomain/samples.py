"""Synthetic signals in the field's own file format: noise, half of them with one short burst."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from newdomain.signals.formats import HEADER


def make_samples(
    out: Path, *, count: int = 48, samples: int = 512, seed: int = 0, overwrite: bool = False
) -> list[Path]:
    """Writes `count` signals and labels.csv to `out`, the same under a seed.

    Raises:
        UserError: `out` holds samples already and `overwrite` is off.
    """
    import numpy as np

    if (out / "labels.csv").exists() and not overwrite:
        raise UserError(f"{out} already holds samples", "--overwrite replaces them")
    rng = np.random.default_rng(seed)
    seconds = np.arange(samples) / 100
    labels, paths = ["signal,label"], []
    for i in range(count):
        values = rng.normal(size=samples)
        if i % 2:
            start = int(rng.integers(0, samples - 48))
            values[start : start + 48] += 2 * np.sin(np.arange(48) * 0.9)
        path = out / f"signal_{i:03}.csv"
        with writing(path) as temporary:
            np.savetxt(temporary, np.stack([seconds, values], 1), fmt="%.4f", delimiter=",", header=HEADER, comments="")
        labels.append(f"{path.stem},{i % 2}")
        paths.append(path)
    write_text(out / "labels.csv", "\n".join(labels) + "\n")
    return paths
