"""Drawn skin lesions of four kinds under varying skin, light and place; as a MedMNIST archive, with the lesions' masks beside it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from medical_segmentation.similar.options import SampleOptions

CLASSES = ("round", "ring", "twin", "streaked")


def draw_lesion(rng: np.random.Generator, kind: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture (size, size, 3) and where its lesion lies."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    skin = np.array([rng.uniform(170, 235), rng.uniform(130, 185), rng.uniform(110, 165)])
    picture = np.ones((size, size, 3)) * skin
    picture += 14 * (x * rng.normal() + y * rng.normal())[..., None]  # light from one side
    cx, cy = rng.uniform(-0.3, 0.3, 2)
    radius, turn = rng.uniform(0.32, 0.48), rng.uniform(0, np.pi)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
    distance = np.hypot(u, v)
    if kind == 0:
        lesion = distance < radius
    elif kind == 1:
        lesion = (distance < radius) & (distance > 0.55 * radius)
    elif kind == 2:
        lesion = (np.hypot(u - 0.6 * radius, v) < 0.55 * radius) | (np.hypot(u + 0.6 * radius, v) < 0.55 * radius)
    else:
        lesion = (distance < radius) & (np.sin(v / radius * 10) > -0.1)
    shade = np.array([rng.uniform(60, 110), rng.uniform(35, 75), rng.uniform(25, 65)])
    picture[lesion] = picture[lesion] * 0.25 + shade * 0.75
    picture += rng.normal(0, 9, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), lesion


def make_samples(
    out: Path, options: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Writes ``lesions.npz`` (train, val and test) and ``masks.npz`` (where the test images' lesions lie).

    Raises:
        UserError: the folder holds something.
    """
    if out.exists() and any(out.iterdir()) and not (overwrite and (out / "lesions.npz").is_file()):
        raise UserError(
            f"{out} already holds files", "--overwrite replaces an earlier sample, another folder keeps both"
        )
    rng = np.random.default_rng(seed)
    counts = {"train": options.images, "val": max(4, options.images // 5), "test": max(6, options.images // 3)}
    arrays: dict[str, NDArray] = {}
    masks = np.zeros(0)
    for part, count in counts.items():
        labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), count))
        drawn = [draw_lesion(rng, int(label), options.size) for label in labels]
        arrays[f"{part}_images"] = np.stack([picture for picture, _ in drawn])
        arrays[f"{part}_labels"] = labels[:, None].astype(np.uint8)
        if part == "test":
            masks = np.stack([mask for _, mask in drawn])
    out.mkdir(parents=True, exist_ok=True)
    _save(out / "lesions.npz", arrays)
    _save(out / "masks.npz", {"test_masks": masks})
    return out


def _save(path: Path, arrays: dict[str, NDArray]) -> None:
    """An archive without time stamps: the same data are the same file."""
    with writing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (2020, 1, 1, 0, 0, 0)), buffer.getvalue(), zipfile.ZIP_DEFLATED
            )
