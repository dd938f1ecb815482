"""The training step of MapSAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core_runtime.training import Training
from remote_sensing.maps.metrics import PixelCounts
from remote_sensing.maps.model.folder import prepare
from remote_sensing.maps.model.losses import mask_loss
from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig
from remote_sensing.maps.training.recipe import Recipe


class MapTraining(Training):
    """``0.2 focal + 0.8 dice`` of the masks and of the coarse mask, at a quarter of the image's size.

    Args:
        model: the network.
        recipe: how it is trained.
        lr: learning rate of AdamW.
        channel_order: of the pictures, as the network expects them.
        seed: of the random numbers of a step.
    """

    def __init__(self, model: MapSAM, recipe: Recipe, *, lr: float, channel_order: str = "rgb", seed: int = 0) -> None:
        super().__init__(model, seed)
        self.recipe, self.lr, self.channel_order = recipe, lr, channel_order

    @property
    def config(self) -> MapSamConfig:
        return self.model.config  # pyright: ignore[reportReturnType]

    def targets(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (b, K, S/4, S/4) and their union (b, 1, S/4, S/4): the share of each cell; `legacy`, whether its first pixel is of the class.

        The first pixel moves every border by up to half a cell (a mask that learned it exactly has an IoU of 0.92 on a real railway at 448 pixels).
        """
        size = self.config.image_size // 4
        classes = torch.arange(1, self.config.num_classes + 1, device=label.device)[None, :, None, None]
        whole = torch.cat([label[:, None] == classes, label[:, None] > 0], 1).float()
        small = F.interpolate(whole, (size, size), mode="nearest" if self.recipe.legacy else "area")
        return small[:, :-1], small[:, -1:]

    def losses(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the masks (a mean over classes), that of the coarse mask, and the masks' logits."""
        output = self.model(prepare(batch["image"], self.config.image_size, self.channel_order))
        masks, union = self.targets(batch["label"])
        logits = output.logits.float()
        # dice is a ratio: one per class, so that a rare class counts as much as a frequent one
        of_classes = [mask_loss(logits[:, i : i + 1], masks[:, i : i + 1]) for i in range(masks.shape[1])]
        coarse = mask_loss(output.coarse_at(masks.shape[-1]).float(), union)
        return torch.stack(of_classes).mean(), coarse, logits

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        main, coarse, _ = self.losses(batch)
        self.count(train_loss=(main + coarse).item(), train_mask=main.item(), train_coarse=coarse.item())
        return self.finite(main + coarse)

    def on_validation_epoch_start(self) -> None:
        self.pixels = PixelCounts()

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        main, coarse, logits = self.losses(batch)
        full = F.interpolate(logits, tuple(batch["label"].shape[1:]), mode="bilinear", align_corners=False)
        self.pixels.add((full > 0).any(1).cpu().numpy(), (batch["label"] > 0).cpu().numpy())
        self.count(val_loss=(main + coarse).item())

    def on_validation_epoch_end(self) -> None:
        # of all pixels at once: a mean over images would reward seeing nothing where many tiles are empty
        iou = self.pixels.measures()["iou"]
        if iou != iou:
            iou = 1.0  # neither truth nor prediction holds a pixel of the feature
        self.count(val_iou=iou)

    def configure_optimizers(self) -> Any:
        recipe, total = self.recipe, int(self.trainer.estimated_stepping_batches)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, self.lr, weight_decay=recipe.weight_decay)
        warm = recipe.warmup
        if not recipe.legacy:
            # with ten tiles the published 250 steps would never end
            warm = min(warm, max(1, total // 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, warm, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, warm: int, total: int) -> float:
    """Factor on the learning rate: linear warm-up, then ``(1 − i / max)^0.9``."""
    if step < warm:
        return (step + 1) / warm
    return max(1 - (step - warm) / max(total - warm, 1), 0.0) ** 0.9
