"""Flow matching of clips: the network predicts noise minus clip from their mixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from core_runtime.errors import UserError, counted
from core_runtime.terminal import track
from core_runtime.training import EpochOrder, Training, first_epoch
from vision_models.video.latents import latents_of, read_clip
from vision_models.video.model import SmallWan, WanConfig
from vision_models.video.recipe import Recipe

LEVELS = (0.15, 0.35, 0.55, 0.75, 0.95)  # shares of noise at which clips are judged
MIDDLE = LEVELS[2:3]  # after each epoch one will do


def find_clips(folder: Path) -> list[Path]:
    """The videos of a folder, in order.

    Raises:
        UserError: there are fewer than four.
    """
    from core_runtime.videos import KINDS, find_videos

    if not folder.exists():
        raise UserError(f"no such folder: {folder}", f"training takes a folder of videos: {KINDS}")
    place = folder / "clips" if (folder / "clips").is_dir() else folder
    clips = find_videos(place) if place.is_dir() else []
    if len(clips) < 4:
        raise UserError(
            f"{folder} holds {counted(len(clips), 'video')}", "at least four are needed: a quarter is held out"
        )
    return clips


def split_clips(clips: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out clips: every fourth is held out."""
    held_out = list(clips[3::4])
    return [clip for clip in clips if clip not in held_out], held_out


def read_latents(clips: Sequence[Path], config: WanConfig) -> Tensor:
    """(clips, channels, time, height, width)."""
    read = []
    for clip in track(clips, "Reading clips"):
        read.append(latents_of(read_clip(clip, config.frames, config.height, config.width), config.in_channels))
    return torch.cat(read)


def mixed(clips: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Clips with a share of noise, (batch,) from 0 to 1."""
    part = share.view(-1, 1, 1, 1, 1)
    return (1 - part) * clips + part * noise


def flow_loss(model: SmallWan, clips: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Mean squared error of the predicted flow."""
    predicted = model(mixed(clips, noise, share), share * 1000)
    return F.mse_loss(predicted.float(), noise - clips)


def judged_loss(model: SmallWan, clips: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """(clips,): the loss of each clip, mean over shares of noise, with noise that is the same for every model."""
    rows = []
    with torch.inference_mode():
        for number, clip in enumerate(clips):
            noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(number)).to(clip)[None]
            losses = [flow_loss(model, clip[None], noise, torch.tensor([level]).to(clip)) for level in levels]
            rows.append(torch.stack(losses).mean())
    return torch.stack(rows)


class FlowTraining(Training):
    """AdamW on the flow loss at random shares of noise."""

    def __init__(self, model: SmallWan, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        clips = batch[0]
        noise, share = torch.randn_like(clips), torch.rand(len(clips), device=clips.device)
        model: Any = self.model
        loss = flow_loss(model, clips, noise, share)
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        model: Any = self.model
        self.count(val_loss=judged_loss(model, batch[0], MIDDLE).mean().item())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), self.recipe.lr, weight_decay=self.recipe.weight_decay)


class ClipData(lightning.LightningDataModule):
    """Loaders of clips that lie in memory."""

    def __init__(self, train: Tensor, val: Tensor, recipe: Recipe, *, workers: int, seed: int) -> None:
        super().__init__()
        self.clips, self.held_out = TensorDataset(train), TensorDataset(val)
        self.batch, self.workers, self.seed = recipe.batch, workers, seed

    def train_dataloader(self) -> Any:
        order = EpochOrder(len(self.clips), self.seed, epoch=first_epoch(self))
        return DataLoader(self.clips, self.batch, sampler=order, num_workers=self.workers)

    def val_dataloader(self) -> Any:
        return DataLoader(self.held_out, len(self.held_out), num_workers=self.workers)
