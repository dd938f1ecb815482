"""Training a land-use network: loss, schedule, what is written down of every epoch, and the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.checkpoints.folders import save_model
from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, open_run, write_text
from core_runtime.training import Training, fit
from remote_sensing.landuse.augment import augmented
from remote_sensing.landuse.bands import Preprocessing, preprocessing
from remote_sensing.landuse.data import LandUseData
from remote_sensing.landuse.layouts import TileSet, find_tiles
from remote_sensing.landuse.networks import LandUseModel, ResNetPeer, build_network, pretrained
from remote_sensing.landuse.recipes import CLASSES, PUBLISHED_WEIGHTS, Recipe, effective_weights, recipe_of
from remote_sensing.landuse.splits import Split, choose
from remote_sensing.landuse.store import decoded


class LandUseTraining(Training):
    """Weighted cross entropy, AdamW, one of the published schedules."""

    def __init__(
        self, model: nn.Module, prepare: Preprocessing, recipe: Recipe, weights: list[float] | None, seed: int
    ) -> None:
        super().__init__(model, seed)
        self.prepare, self.recipe = prepare, recipe
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.loss = nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights))

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        image = batch["image"]
        if self.recipe.augment:
            rgb = self.prepare.is_rgb
            image = augmented(image, limit=255.0 if rgb else 10_000.0, rgb=rgb)
        logits = self.model(self.prepare(image))
        loss = self.finite(self.loss(logits, batch["label"]))
        self.count(train_loss=loss.item(), train_accuracy=(logits.argmax(1) == batch["label"]).float().mean().item())
        return loss

    def on_validation_epoch_start(self) -> None:
        self.seen = torch.zeros(3)  # correct, loss, tiles

    def validation_step(self, batch: Mapping[str, Tensor], index: int) -> None:
        logits, labels = self.model(self.prepare(batch["image"])), batch["label"]
        right = (logits.argmax(1) == labels).sum().cpu()
        self.seen += torch.stack([right, self.loss(logits, labels).cpu() * len(labels), torch.tensor(len(labels))])

    def on_validation_epoch_end(self) -> None:
        right, loss, tiles = self.seen.tolist()
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(loss / tiles)
        self.count(val_loss=loss / tiles, val_accuracy=right / tiles)

    def close_epoch(self) -> dict[str, float]:
        alphas = getattr(self.model, "attention_weights", list)()
        return super().close_epoch() | {f"alpha_{i + 1:02}": a for i, a in enumerate(alphas)}

    def configure_optimizers(self) -> Any:
        recipe, total = self.recipe, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.schedule == "plateau":
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
            return optimizer
        each = max(1, total // recipe.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(step // each, recipe.epochs, recipe.schedule == "warm-restarts")
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None and "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])


def cosine(epoch: int, epochs: int, restarts: bool, first: int = 15) -> float:
    """Factor on the learning rate: half a cosine over all epochs, or over periods of 15, 30, 60 … epochs that each begin anew."""
    if not restarts:
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    while epoch >= first:
        epoch, first = epoch - first, 2 * first
    return 0.5 * (1 + math.cos(math.pi * epoch / first))


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        model: the model folder.
        epoch: the one that was kept.
        facts: layout, split, counts, parameters, accuracy of validation and test.
        history: a row an epoch.
    """

    model: Path
    epoch: int
    facts: dict[str, Any]
    history: list[dict[str, float]]


def class_weights(kind: str, tiles: TileSet, split: Split) -> list[float] | None:
    """The weights of the loss.

    Raises:
        UserError: the published ones are asked for, and the classes are not EuroSAT's.
    """
    if kind == "paper":
        if tiles.classes != CLASSES:
            raise UserError(
                "the published class weights are those of EuroSAT's ten classes, these tiles have "
                f"{len(tiles.classes)} others",
                "--class-weights effective or none",
            )
        return list(PUBLISHED_WEIGHTS)
    if kind == "effective":
        labels = [tiles.labels[i] for i in split.train]
        return effective_weights([labels.count(c) for c in range(len(tiles.classes))])
    return None


def train(
    data: Path,
    out: Path,
    *,
    network: str = "balanced",
    recipe: Recipe | None = None,
    kind: str = "auto",
    bands: tuple[str, ...] | None = None,
    split: str = "auto",
    width: int | None = None,
    depths: tuple[int, ...] | None = None,
    drop: float = 1.0,
    weights: Path | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    precision: str = "32-true",
    workers: int = 0,
    seed: int = 42,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains a network on a EuroSAT download (any layout) and judges it on the split's test tiles.

    Args:
        data: folder or archive of the tiles.
        out: the run folder.
        network: one of `recipes.NETWORKS`.
        recipe: the published one of the network if left out.
        kind: "rgb", "ms" or "auto".
        bands: a subset of the 13 bands by name.
        split: a name of `splits.CHOICES`.
        width: narrower or wider than published.
        depths: blocks a stage of the balanced network.
        drop: factor on the published rates of dropout and DropBlock.
        weights: ImageNet weights of a ResNet.
        cache: where decoded tiles are kept; the person's cache folder if left out.
        trainer: further arguments of Lightning's Trainer.

    Raises:
        UserError: anything wrong with tiles, lists, weights or sizes, named.
    """
    from remote_sensing.landuse.evaluation import judge
    from remote_sensing.landuse.figures import draw_history

    recipe = recipe or recipe_of(network)
    tiles = find_tiles(data, kind)
    chosen = choose(tiles, split, seed)
    try:
        prepare = preprocessing(bands or tiles.bands)
    except ValueError as error:
        raise UserError(str(error)) from None
    if bands and tiles.is_rgb:
        raise UserError("--bands names bands of 13-band tiles, these are RGB", "leave --bands out, or --kind ms")
    loss_weights = class_weights(recipe.class_weights, tiles, chosen)
    store = decoded(tiles, cache, progress=progress)
    torch.manual_seed(seed)
    size = store.shape[2]
    sizes: dict[str, Any] = {"tile_size": size, "width": width, "depths": depths, "drop": drop}
    model = build_network(network, classes=len(tiles.classes), bands=len(prepare.bands), **sizes)
    if weights is not None:
        if not isinstance(model, ResNetPeer):
            raise UserError(f"--weights is for the ResNets; {network} is trained from scratch")
        pretrained(model, weights)
    arguments = {
        "data": str(data),
        "network": network,
        **asdict(recipe),
        "kind": kind,
        "bands": bands and list(bands),
        "split": split,
        "width": width,
        "depths": depths and list(depths),
        "drop": drop,
        "weights": weights and str(weights),
        "precision": precision,
        "seed": seed,
    }
    seen = fingerprint({"files": tiles.files, "shape": store.shape})
    open_run(
        out,
        arguments,
        packages=["torch", "lightning", "attention-suite-remote-sensing"],
        data=seen,
        resume=resume,
        overwrite=overwrite,
    )
    loaders = LandUseData(
        store,
        tiles,
        chosen,
        batch=recipe.batch,
        bands=prepare.bands,
        workers=workers,
        seed=seed,
    )
    history, best = fit(
        LandUseTraining(model, prepare, recipe, loss_weights, seed),
        loaders,
        out,
        epochs=recipe.epochs,
        score="val_accuracy",
        patience=recipe.patience,
        device=device,
        precision=precision,
        show=progress,
        trainer=trainer,
    )
    model.eval().to(device)
    ready = LandUseModel(model, prepare, tiles.classes, size, {})
    measured = judge(ready, loaders.test, batch=2 * recipe.batch)
    facts = {
        "layout": tiles.layout,
        "tiles": len(tiles.files),
        "classes": list(tiles.classes),
        "bands": list(prepare.bands),
        "split": {"name": chosen.name, "train": len(chosen.train), "val": len(chosen.val), "test": len(chosen.test)},
        "network": network,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(history),
        "val_accuracy": best["val_accuracy"],
        "test": measured.plain(),
    }
    save_model(
        model.cpu(),
        out / "model",
        preprocessing={"input": prepare.plain(), "classes": list(tiles.classes), "tile_size": size},
        provenance={
            "trained_on": {k: facts[k] for k in ("layout", "tiles", "split")},
            "epoch": int(best["epoch"]),
            "arguments": {k: v for k, v in arguments.items() if k not in ("data", "weights")},
            "test_accuracy": measured.accuracy,
        },
    )
    draw_history(history, out / "figures" / "training.png")
    write_text(out / "metrics.json", _json(facts))
    return Trained(out / "model", int(best["epoch"]), facts, history)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1) + "\n"
