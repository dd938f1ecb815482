"""A tiny random Wan in diffusers' format, and made clips of moving squares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from core_runtime.folders import writing
from core_runtime.identity import begun, refuse_foreign_folder
from core_runtime.options import AtLeast, options


@options
class SampleOptions:
    """How many clips are drawn.

    Attributes:
        clips: how many.
        frames: of each.
    """

    clips: Annotated[int, AtLeast(4)] = 16
    frames: Annotated[int, AtLeast(4)] = 24


def make_samples(
    out: Path, how: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Writes ``wan-tiny/`` (diffusers' config.json and weights, random) and ``clips/*.mp4``.

    Returns:
        The paths by what they are.
    """
    import numpy as np

    from core_runtime.videos import need_pyav, write_video
    from vision_models.video.model import need_diffusers

    need_pyav()
    need_diffusers()
    refuse_foreign_folder(out, [], overwrite=overwrite)
    with begun(out, {"clips": how.clips, "frames": how.frames, "seed": seed}), writing(out) as part:
        part.mkdir()
        _write_wan(part / "wan-tiny", seed)
        for number in range(how.clips):
            rng = np.random.default_rng([seed, number])
            write_video(part / "clips" / f"clip_{number + 1:03}.mp4", draw(rng, how.frames), 12, quality=20)
    return {"model": out / "wan-tiny", "clips": out / "clips"}


def _write_wan(folder: Path, seed: int) -> None:
    import torch

    from vision_models.video.model import SmallWan, WanConfig

    torch.manual_seed(seed)
    config = WanConfig(in_channels=16, num_layers=3, text_dim=16)
    SmallWan(config).transformer.save_pretrained(folder)


def draw(rng: Any, frames: int) -> Any:
    """Frames (48, 64, 3): two squares that move steadily and bounce off the sides."""
    import numpy as np

    height, width = 48, 64
    y, x = np.mgrid[:height, :width]
    ground, colours = rng.uniform(20, 90, 3), rng.uniform(130, 250, (2, 3))
    places = rng.uniform([10, 10], [width - 10, height - 10], (2, 2))
    speeds = rng.uniform(0.8, 2.5, (2, 2)) * rng.choice([-1, 1], (2, 2))
    sizes = rng.uniform(5, 10, 2)
    for _ in range(frames):
        image = np.broadcast_to(ground, (height, width, 3)).copy()
        for place, speed, size, colour in zip(places, speeds, sizes, colours, strict=True):
            image[(abs(x - place[0]) < size) & (abs(y - place[1]) < size)] = colour
            place += speed
            for axis, limit in enumerate((width, height)):
                if not size <= place[axis] <= limit - size:
                    speed[axis] *= -1
        yield image.clip(0, 255).astype(np.uint8)
