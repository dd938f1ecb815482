"""Clips as latents of a Wan's size, and back to pictures.

Models of three channels see the frames themselves. A pipeline's folder has its VAE. For others a fixed orthonormal projection of blocks of
4 × 8 × 8 pixels stands in, which has the VAE's shape and keeps the clip's structure, but is not what published weights were trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core_runtime.errors import UserError, clean, counted


def read_clip(path: Path, frames: int, height: int, width: int) -> NDArray[np.float32]:
    """The first frames of a video, evenly spread over it where it has more: (frames, height, width, 3) in [-1, 1]."""
    from core_runtime.videos import open_video

    video = open_video(path)
    rate = video.rate or 25
    seconds = video.seconds or frames / rate
    held = 1 if video.rate is None else math.ceil(seconds * rate - 0.01)
    if held < frames:
        raise UserError(f"{path} has {counted(held, 'frame')}, {frames} are needed", "a longer clip, or fewer --frames")
    gap = min(seconds / frames, 2 / rate)  # at most every second frame: motion must stay motion
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


class Codec(Protocol):
    """From frames to latents and back.

    Attributes:
        strides: frames and pixels of one latent step, in time and on both sides.
        note: what its pictures are not, for the user; empty where they are frames.
    """

    @property
    def strides(self) -> tuple[int, int]: ...

    @property
    def note(self) -> str: ...

    def encode(self, clip: NDArray[np.float32]) -> Tensor:
        """(1, channels, time, height, width) of frames (frames, height, width, 3) in [-1, 1]."""
        ...

    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        """(time, height, width, 3) bytes."""
        ...


@dataclass(frozen=True)
class Frames:
    """The frames themselves."""

    strides: tuple[int, int] = (1, 1)
    note: str = ""

    def encode(self, clip: NDArray[np.float32]) -> Tensor:
        return latents_of(clip, 3)

    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        return as_pictures(latents)


@dataclass(frozen=True)
class StandIn:
    """The fixed projection in the place of a VAE."""

    channels: int
    strides: tuple[int, int] = (4, 8)
    note: str = (
        "a fixed projection stands in for the VAE: figures of attention hold for such latents, pictures are no frames"
    )

    def encode(self, clip: NDArray[np.float32]) -> Tensor:
        return latents_of(clip, self.channels)

    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        return as_pictures(latents)


class VAE:
    """The VAE of a pipeline's folder, through diffusers."""

    def __init__(self, folder: Path, device: Any = "cpu") -> None:
        from vision_models.video.model import need_diffusers

        try:
            self.network: Any = (
                need_diffusers().AutoencoderKLWan.from_pretrained(str(folder), local_files_only=True).eval().to(device)
            )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"{folder} cannot be loaded: {clean(str(error))[:200]}", "copy the folder again") from None
        config = self.network.config
        self.strides = int(config.scale_factor_temporal), int(config.scale_factor_spatial)
        self.note = ""
        self.mean = torch.tensor(config.latents_mean, device=device).view(1, -1, 1, 1, 1)
        self.std = torch.tensor(config.latents_std, device=device).view(1, -1, 1, 1, 1)

    def encode(self, clip: NDArray[np.float32]) -> Tensor:
        x = latents_of(clip, 3).to(self.mean)
        with torch.inference_mode():
            return (self.network.encode(x).latent_dist.mode() - self.mean) / self.std

    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        with torch.inference_mode():
            return as_pictures(self.network.decode(latents.to(self.mean) * self.std + self.mean, return_dict=False)[0])


def codec_of(folder: Path, channels: int, device: Any = "cpu") -> Codec:
    """How clips become the latents of a model.

    Args:
        folder: of the model, or of a pipeline with its VAE.
        channels: of its latents.

    Raises:
        UserError: the VAE cannot be loaded, or makes other latents.
    """
    place = folder / "vae"
    if (place / "config.json").is_file():
        vae = VAE(place, device)
        if vae.mean.numel() != channels:
            raise UserError(
                f"{place} makes {vae.mean.numel()} channels, the transformer takes {channels}",
                "VAE and transformer belong to one pipeline: copy the folder again",
            )
        return vae
    return Frames() if channels == 3 else StandIn(channels)


def image_condition(codec: Codec, clip: NDArray[np.float32], latents: Tensor) -> Tensor:
    """What an image-to-video Wan gets beside its latents: a mask of given frames, and the first frame with nothing behind it.

    Returns:
        (1, stride of time + channels, time, height, width).
    """
    alone = np.zeros_like(clip)
    alone[0] = clip[0]
    image = codec.encode(alone).to(latents)
    given = latents.new_zeros(1, codec.strides[0], *latents.shape[2:])
    given[:, :, 0] = 1
    return torch.cat([given, image], 1)
