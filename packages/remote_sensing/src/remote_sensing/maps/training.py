"""Training MapSAM on few tiles: losses, warm-up that ends, calibration on the validation tiles, the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core_attention.checkpoints.folders import read_official
from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, open_run, write_text
from core_runtime.training import EpochOrder, Training, first_epoch, fit
from remote_sensing.maps.augment import augmented
from remote_sensing.maps.checkpoints import load_adapter, load_sam, save_adapter, variant_of
from remote_sensing.maps.labels import Examples
from remote_sensing.maps.losses import mask_loss
from remote_sensing.maps.mapsam import MapSAM, MapSamConfig, mapsam_config
from remote_sensing.maps.measures import PixelCounts
from remote_sensing.maps.model_folders import SheetModel, prepared, save

# A small encoder for tests, demos and first tries without SAM's weights; all of it is trained. Pixels around 0 make it begin faster: in [0, 1] paper is
# bright everywhere, and patches hardly differ.
TINY: dict[str, Any] = {
    "embed_dim": 96,
    "depth": 10,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "global_attn_indexes": (4, 9),
    "window_size": 7,
    "prompt_dim": 64,
    "decoder_mlp_dim": 128,
    "decoder_heads": 4,
    "iou_head_hidden_dim": 32,
    "rank": 0,
    "pixel_mean": (0.485, 0.456, 0.406),
    "pixel_std": (0.229, 0.224, 0.225),
}


@dataclass(frozen=True)
class MapRecipe:
    """How MapSAM is trained (AdamW, betas 0.9 and 0.999).

    Attributes:
        lr: None: 0.005, as published for adapters of a SAM checkpoint; 0.001 for a network that starts from nothing.
        warmup: steps of linear warm-up; never more than a tenth of all steps, unless `legacy` (with ten tiles the published 250 are never over).
        legacy: the published augmentation, labels and warm-up, mistakes included.
    """

    epochs: int = 160
    lr: float | None = None
    weight_decay: float = 0.1
    batch: int = 16
    warmup: int = 250
    legacy: bool = False
    augment: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or (self.lr is not None and not self.lr > 0):
            raise UserError(
                f"epochs {self.epochs}, batch {self.batch} and lr {self.lr} must be above 0", "mend the options"
            )


class MapTiles(Dataset):
    """Examples in memory as tensors, augmented by seed, epoch and number."""

    def __init__(self, examples: Examples, recipe: MapRecipe, *, augment: bool, seed: int = 0) -> None:
        self.items = examples.all()
        sizes = {label.shape: name for name, (_, label) in zip(examples.names, self.items, strict=True)}
        if len(sizes) > 1:
            shown = ", ".join(f"{name} is {w} × {h}" for (h, w), name in list(sizes.items())[:2])
            raise UserError(f"the tiles have several sizes: {shown}", "all tiles need one size")
        self.recipe, self.augment, self.seed = recipe, augment and recipe.augment, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        image, label = self.items[index]
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            image, label = augmented(image, label, rng, legacy=self.recipe.legacy)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


class MapTraining(Training):
    """``0.2 focal + 0.8 dice`` of the masks and of the coarse mask, at a quarter of the image's size."""

    def __init__(self, model: MapSAM, recipe: MapRecipe, channel_order: str, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe, self.channel_order = recipe, channel_order

    def targets(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (b, K, S/4, S/4) and their union (b, 1, S/4, S/4): the share of each cell; `legacy`, whether its first pixel is of the class.

        The first pixel moves every border by up to half a cell (a mask that learned it exactly has an IoU of 0.92 on a real railway at 448 pixels).
        """
        config: MapSamConfig = self.model.config  # pyright: ignore[reportAssignmentType]
        size = config.image_size // 4
        classes = torch.arange(1, config.num_classes + 1, device=label.device)[None, :, None, None]
        whole = torch.cat([label[:, None] == classes, label[:, None] > 0], 1).float()
        small = F.interpolate(whole, (size, size), mode="nearest" if self.recipe.legacy else "area")
        return small[:, :-1], small[:, -1:]

    def losses(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        made = self.model(prepared(batch["image"], self.model.config.image_size, self.channel_order))  # pyright: ignore
        masks, union = self.targets(batch["label"])
        k = masks.shape[1]
        logits = made.logits.float()
        main = torch.stack([mask_loss(logits[:, i : i + 1], masks[:, i : i + 1]) for i in range(k)]).mean()
        return main, mask_loss(made.coarse_at(masks.shape[-1]).float(), union), logits

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        main, coarse, _ = self.losses(batch)
        self.count(train_loss=(main + coarse).item(), train_mask=main.item(), train_coarse=coarse.item())
        return self.finite(main + coarse)

    def on_validation_epoch_start(self) -> None:
        self.found = PixelCounts()

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        main, coarse, logits = self.losses(batch)
        full = F.interpolate(logits, tuple(batch["label"].shape[1:]), mode="bilinear", align_corners=False)
        self.found.add((full > 0).any(1).cpu().numpy(), (batch["label"] > 0).cpu().numpy())
        self.count(val_loss=(main + coarse).item())

    def on_validation_epoch_end(self) -> None:
        # of all pixels at once: a mean over images would reward seeing nothing where many tiles are empty
        iou = self.found.measures()["iou"]
        self.count(val_iou=1.0 if iou != iou else iou)

    def configure_optimizers(self) -> Any:
        recipe, total = self.recipe, int(self.trainer.estimated_stepping_batches)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, recipe.lr or 0.005, weight_decay=recipe.weight_decay)
        warm = recipe.warmup if recipe.legacy else min(recipe.warmup, max(1, total // 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, warm, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, warm: int, total: int) -> float:
    """Factor on the learning rate: linear warm-up, then ``(1 − i / max)^0.9``."""
    if step < warm:
        return (step + 1) / warm
    return max(1 - (step - warm) / max(total - warm, 1), 0.0) ** 0.9


class MapData(lightning.LightningDataModule):
    """The loaders, with an order and an augmentation of its own for every epoch."""

    def __init__(self, train: MapTiles, val: MapTiles, batch: int, seed: int) -> None:
        super().__init__()
        self.train, self.val, self.batch, self.seed = train, val, batch, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.train), self.seed, epoch=first_epoch(self), with_epoch=True)
        return DataLoader(self.train, min(self.batch, len(self.train)), sampler=order)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch)


@dataclass(frozen=True)
class MapTrained:
    """What a training left."""

    model: Path
    facts: dict[str, Any]
    history: list[dict[str, float]]


def build(
    variant: str,
    *,
    classes: int,
    image_size: int,
    sam: Path | None,
    adapter: Path | None,
    init_mask_token: str = "new",
    **options: Any,
) -> MapSAM:
    """A MapSAM to train: on a SAM checkpoint with frozen encoder, or from nothing and then with nothing frozen.

    Raises:
        UserError: files that do not fit, sizes that do not.
    """
    try:
        if variant == "tiny":
            if sam is not None:
                raise UserError(
                    "--sam is for vit_b, vit_l and vit_h", "leave --variant out: the checkpoint says which it is"
                )
            sizes: dict[str, Any] = TINY | options | {"rank": 0, "num_classes": classes, "image_size": image_size}
            return MapSAM(MapSamConfig(**sizes))
        if sam is None and adapter is not None:
            raise UserError("an adapter holds no encoder", "--sam names the SAM checkpoint that it belongs to")
        state = None if sam is None else read_official(sam)
        variant = variant_of(state) if state is not None else variant
        model = MapSAM(mapsam_config(variant, num_classes=classes, image_size=image_size, **options))
        if state is not None:
            load_sam(model, state, init_mask_token=init_mask_token)
        if adapter is not None:
            load_adapter(model, adapter)
        return model if state is None else model.freeze_encoder()
    except (OSError, ValueError) as error:
        raise UserError(str(error), "'remote-sensing maps models' lists SAM's files") from None


def train(
    train_on: Examples,
    validate_on: Examples,
    out: Path,
    *,
    variant: str = "vit_b",
    sam: Path | None = None,
    adapter: Path | None = None,
    recipe: MapRecipe | None = None,
    image_size: int = 512,
    channel_order: str = "rgb",
    init_mask_token: str = "new",
    device: str = "cpu",
    precision: str = "32-true",
    seed: int = 1234,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> MapTrained:
    """Trains on examples and leaves a run folder with a model folder and an adapter file.

    Args:
        options: further fields of `MapSamConfig` (rank, masked_attention, pixel_mean …).

    Raises:
        UserError: files that do not fit, a class without a pixel, a run that is already there.
    """
    recipe = recipe or MapRecipe()
    if recipe.lr is None:
        recipe = replace(recipe, lr=0.001 if sam is None else 0.005)
    torch.manual_seed(seed)
    classes = train_on.classes
    model = build(
        variant,
        classes=len(classes),
        image_size=image_size,
        sam=sam,
        adapter=adapter,
        init_mask_token=init_mask_token,
        **options,
    )
    data = MapTiles(train_on, recipe, augment=True, seed=seed), MapTiles(validate_on, recipe, augment=False)
    seen = {c for _, label in data[0].items for c in np.unique(label).tolist()}
    for i, name in enumerate(classes, 1):
        if i not in seen:
            raise UserError(f"no training tile holds the class {name!r}", "label some of it, or leave the class out")
    told: dict[str, Any] = {"variant": variant, "image_size": image_size, **asdict(recipe), "seed": seed, **options}
    told = json.loads(json.dumps({**told, **(arguments or {})}, default=str))
    open_run(
        out,
        told,
        packages=["torch", "lightning", "attention-suite-remote-sensing"],
        data=fingerprint({"train": train_on.names, "val": validate_on.names}),
        resume=resume,
        overwrite=overwrite,
    )
    history, best = fit(
        MapTraining(model, recipe, channel_order, seed),
        MapData(*data, recipe.batch, seed),
        out,
        epochs=recipe.epochs,
        score="val_iou",
        device=device,
        precision=precision,
        show=progress,
    )
    model.eval().to(device)
    ready = SheetModel(model, classes, train_on.side, channel_order)  # pyright: ignore[reportArgumentType]
    temperature, before, after = calibrate(ready, data[1].items, recipe.batch)
    facts = {
        "tiles": len(data[0]),
        "validation_tiles": len(data[1]),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "epoch": int(best["epoch"]),
        "val_iou": best["val_iou"],
        "temperature": temperature,
        "ece_before": before,
        "ece": after,
    }
    model.cpu()
    final = SheetModel(model, classes, train_on.side, channel_order, temperature)  # pyright: ignore[reportArgumentType]
    save(
        final,
        out / "model",
        {
            "trained_on": {"tiles": facts["tiles"]},
            "epoch": facts["epoch"],
            "val_iou": facts["val_iou"],
            "arguments": told,
        },
    )
    save_adapter(model, out / "adapter.safetensors")
    write_text(out / "metrics.json", json.dumps(facts, indent=1))
    return MapTrained(out / "model", facts, history)


def calibrate(model: SheetModel, items: Sequence[tuple[Any, Any]], batch: int) -> tuple[float, float, float]:
    """The temperature with the least negative log-likelihood on tiles, and the expected calibration error before and after."""
    logits, truth = [], []
    for image, label in items:
        made = model.logits(torch.from_numpy(image)[None])[0]
        classes = torch.arange(1, len(model.classes) + 1)[:, None, None]
        logits.append(made.flatten())
        truth.append((torch.from_numpy(label)[None] == classes).float().flatten())
    x, y = torch.cat(logits), torch.cat(truth)
    step = max(1, len(x) // 1_000_000)  # more pixels do not change the temperature
    x, y = x[::step].double(), y[::step].double()
    log_t = torch.linspace(-1.5, 2.5, 81, dtype=torch.float64)
    scores = torch.stack([F.binary_cross_entropy_with_logits(x / t.exp(), y) for t in log_t])
    best = float(log_t[int(scores.argmin())].exp())
    return best, calibration_error(x.sigmoid(), y), calibration_error((x / best).sigmoid(), y)


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 15) -> float:
    """The expected calibration error of binary decisions: the mean gap between confidence and accuracy over bins of confidence."""
    right = ((probability > 0.5) == (truth > 0.5)).double()
    confidence = torch.maximum(probability, 1 - probability)
    number = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    total = 0.0
    for i in range(bins):
        here = number == i
        if here.any():
            total += float(here.double().mean()) * abs(float(confidence[here].mean()) - float(right[here].mean()))
    return total
