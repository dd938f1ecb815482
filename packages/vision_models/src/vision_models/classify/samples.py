"""Made images: six kinds of small pictures that colour alone does not tell apart, in three containers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.folders import writing
from core_runtime.identity import begun, refuse_foreign_folder
from core_runtime.options import AtLeast, Between, options

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("checks", "cross", "dots", "ring", "stripes", "triangle")


@options
class SampleOptions:
    """How many images are drawn.

    Attributes:
        per_class: images of each class; two thirds train.
        side: of an image in pixels.
    """

    per_class: Annotated[int, AtLeast(6)] = 30
    side: Annotated[int, Between(16, 256)] = 32


def make_samples(
    folder: Path, how: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Draws the images and writes ``images/{train,val,test}/CLASS/``, ``images.npz`` and ``sheet.png``.

    Raises:
        UserError: the folder is there, and is not to be replaced or not ours.
    """
    import numpy as np
    from PIL import Image

    refuse_foreign_folder(folder, [], overwrite=overwrite)
    rng = np.random.default_rng(seed)
    images = np.stack([[draw(name, how.side, rng) for _ in range(how.per_class)] for name in CLASSES])
    first_val, first_test = round(how.per_class * 2 / 3), round(how.per_class * 5 / 6)
    bounds = {"train": (0, first_val), "val": (first_val, first_test), "test": (first_test, how.per_class)}
    with begun(folder, {"samples": how, "seed": seed}), writing(folder) as part:
        arrays: dict[str, Any] = {}
        for name, (low, high) in bounds.items():
            arrays[f"{name}_images"] = images[:, low:high].reshape(-1, how.side, how.side, 3)
            arrays[f"{name}_labels"] = np.repeat(np.arange(len(CLASSES), dtype=np.uint8), high - low)[:, None]
            for number, label in enumerate(CLASSES):
                place = part / "images" / name / label
                place.mkdir(parents=True)
                for i in range(low, high):
                    Image.fromarray(images[number, i]).save(place / f"{label}_{i:03}.png")
        np.savez(part / "images.npz", **arrays)
        sheet = images.transpose(0, 2, 1, 3, 4).reshape(len(CLASSES) * how.side, how.per_class * how.side, 3)
        Image.fromarray(sheet).save(part / "sheet.png")
    return {"folders": folder / "images", "npz": folder / "images.npz", "sprite": folder / "sheet.png"}


def draw(name: str, side: int, rng: Any) -> NDArray[Any]:
    """One image (side, side, 3) of a class: two random colours, a random place, turn and size, and noise."""
    import numpy as np

    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    turn = rng.uniform(-0.4, 0.4)
    x, y = x - rng.uniform(-0.12, 0.12), y - rng.uniform(-0.12, 0.12)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    size = rng.uniform(0.22, 0.36)
    waves = 2 * np.pi * rng.uniform(3, 5)
    distance = np.hypot(u, v)
    if name == "stripes":
        inside = np.sin(waves * u) > 0
    elif name == "checks":
        inside = np.sin(waves * u) * np.sin(waves * v) > 0
    elif name == "dots":
        inside = np.cos(waves * u) + np.cos(waves * v) > 0.9
    elif name == "ring":
        inside = np.abs(distance - size) < 0.07
    elif name == "cross":
        inside = (np.minimum(np.abs(u), np.abs(v)) < 0.06) & (np.maximum(np.abs(u), np.abs(v)) < size)
    else:  # a triangle: the part of the plane on one side of three lines
        lines = [u * np.cos(angle) + v * np.sin(angle) for angle in (0.5, 0.5 + 2 * np.pi / 3, 0.5 + 4 * np.pi / 3)]
        inside = np.max(lines, axis=0) < 0.55 * size
    ground, figure = rng.uniform(0, 130, 3), rng.uniform(110, 255, 3)
    while np.abs(ground - figure).sum() < 150:
        figure = rng.uniform(20, 235, 3)
    image = np.where(inside[..., None], figure, ground) + rng.normal(0, 14, (side, side, 3))
    return np.clip(image, 0, 255).astype(np.uint8)
