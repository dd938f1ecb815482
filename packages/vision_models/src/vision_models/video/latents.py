"""Clips as latents of a Wan's size, and back to pictures.

There is no VAE here: models of three channels see the frames themselves. For others a fixed orthonormal projection of blocks of 4 × 8 × 8 pixels
stands in, which has the VAE's shape and keeps the clip's structure, but is not what published weights were trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core_runtime.errors import UserError


def read_clip(path: Path, frames: int, height: int, width: int) -> NDArray[np.float32]:
    """The first frames of a video, evenly spread over it where it has more: (frames, height, width, 3) in [-1, 1]."""
    from core_runtime.videos import open_video

    video = open_video(path)
    seconds = video.seconds or frames / (video.rate or 25)
    gap = min(seconds / frames, 2 / (video.rate or 25))  # at most every second frame: motion must stay motion
    moments = [(number + 0.5) * gap for number in range(frames)]
    images = [frame.image for frame in video.frames_at(moments, size=(width, height))]
    if len(images) < frames:
        raise UserError(f"{path} has {len(images)} frames, {frames} are needed", "a longer clip, or fewer --frames")
    return np.stack(images).astype(np.float32) / 127.5 - 1


def latents_of(clip: NDArray[np.float32], channels: int) -> Tensor:
    """(1, channels, time, height, width): the frames for three channels, else the stand-in of the VAE.

    Args:
        clip: (frames, height, width, 3); for the stand-in ``4 n + 1`` frames and sides of whole eights.
        channels: of the latents.
    """
    x = torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2)[None]
    if channels == 3:
        return x
    frames, height, width = x.shape[2:]
    if (frames - 1) % 4 or height % 8 or width % 8:
        raise ValueError(
            f"the stand-in takes 4 n + 1 frames and sides of whole eights, got {frames} × {height} × {width}"
        )
    # the first frame stands for a block of its own, as in Wan's VAE
    x = torch.cat([x[:, :, :1].expand(-1, -1, 4, -1, -1), x[:, :, 1:]], 2)
    blocks = x.unflatten(2, (-1, 4)).unflatten(4, (-1, 8)).unflatten(6, (-1, 8))
    flat = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(flat.shape[-1], channels, generator=generator))[0]
    basis[:, 0] = flat.shape[-1] ** -0.5  # the mean of a block
    return (flat @ basis).permute(0, 4, 1, 2, 3) / basis.shape[0] ** 0.5 * 4


def as_pictures(latents: Tensor) -> NDArray[np.uint8]:
    """(time, height, width, 3) bytes: the frames of three channels; else the first three channels, scaled alike."""
    x = latents[0, :3].detach().float().cpu()
    if latents.shape[1] != 3:
        x = x / x.abs().amax().clamp(min=1e-6)
    pictures: Any = ((x.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    return pictures.astype(np.uint8)
