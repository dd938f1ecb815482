"""Small pictures of shapes with a planted shortcut: the colour of a corner gives the class away."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError

SHAPES = ("circle", "square", "triangle")
CORNERS = {"circle": (220, 60, 60), "square": (60, 200, 80), "triangle": (70, 90, 230)}
SIDE, CORNER = 64, 12
PARTS = {"train": 60, "val": 12, "test": 12}  # pictures per class


def make_samples(out: Path, *, seed: int = 0, overwrite: bool = False, shortcut: bool = True) -> Sequence[Path]:
    """Writes ``train``, ``val`` and ``test`` by class, ``test-without-shortcut``, and ``masks`` of what is where.

    Args:
        out: folder.
        seed: of what is drawn.
        overwrite: replace what is there.
        shortcut: paint the corner.

    Raises:
        UserError: the folder already holds samples.
    """
    import numpy as np
    from PIL import Image

    from core_runtime.folders import writing
    from core_runtime.identity import begin, finish, refuse_foreign_folder

    if out.exists() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} already holds files", "--overwrite replaces them, another folder keeps both")
    refuse_foreign_folder(out, [], overwrite=True)
    key = {"samples": "shapes", "seed": seed}
    begin(out, key)
    rng = np.random.default_rng(seed)
    names = []
    with writing(out) as part:
        for split, count in PARTS.items():
            for shape in SHAPES:
                for number in range(count):
                    plain, mask = _draw(shape, rng)
                    places = [(split, shortcut)]
                    if split == "test":
                        places.append(("test-without-shortcut", False))
                    for folder, painted in places:
                        name = Path(folder) / shape / f"{number:03}.png"
                        image = plain.copy()
                        if painted:
                            image[:CORNER, -CORNER:] = CORNERS[shape]
                        (part / name).parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(image).save(part / name)
                        names.append(out / name)
                    if split == "test":
                        place = part / "masks" / shape
                        place.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(mask * np.uint8(255)).save(place / f"{number:03}.png")
    finish(out, key)
    return names


def _draw(shape: str, rng: Any) -> tuple[Any, Any]:
    """A picture of one shape on noise, and where the shape is."""
    import numpy as np

    y, x = np.mgrid[:SIDE, :SIDE]
    radius = rng.uniform(11, 17)
    centre_x, centre_y = rng.uniform(18, 42), rng.uniform(24, 44)
    dx, dy = x - centre_x, y - centre_y
    if shape == "circle":
        mask = dx**2 + dy**2 < radius**2
    elif shape == "square":
        mask = np.maximum(abs(dx), abs(dy)) < 0.85 * radius
    else:
        mask = (dy < 0.7 * radius) & (dy > 2 * abs(dx) - 1.1 * radius)
    background = rng.uniform(90, 150) + rng.normal(0, 12, (SIDE, SIDE, 1))
    colour = background.mean() + rng.choice([-1, 1]) * rng.uniform(35, 60)
    image = np.broadcast_to(background, (SIDE, SIDE, 3)).copy()
    image[mask] = colour + rng.normal(0, 12, (mask.sum(), 1))
    return np.clip(image, 0, 255).astype(np.uint8), mask
