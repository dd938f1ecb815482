"""``remote-sensing maps train``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import flat, resolve_device, use_threads
from remote_sensing.maps.sheets.options import LabelOptions, SheetOptions
from remote_sensing.maps.training.recipe import MapRunOptions, NetworkOptions, Recipe, TrainingData

if TYPE_CHECKING:
    from remote_sensing.maps.sheets.examples import Examples


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        adapter: its adapter file.
        figures: tiles, parameters, the selected epoch, calibration.
        history: one row per epoch.
        next_step: verb and input of the next command.
    """

    model: Path
    adapter: Path
    figures: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    next_step: str

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, **self.figures}

    def lines(self) -> Iterable[str]:
        figures = self.figures
        yield (
            f"{figures['tiles']} tiles, {figures['validation_tiles']} to validate; "
            f"{figures['trainable']:,} of {figures['parameters']:,} parameters trained"
        )
        yield f"Epoch {figures['epoch']} selected: validation IoU {figures['val_iou']:.3f}"
        yield (
            f"Temperature {figures['temperature']:.2f}: "
            f"calibration error {figures['ece_before']:.4f} before, {figures['ece']:.4f} after"
        )
        yield f"Model folder: {self.model}; adapter file: {self.adapter}"
        yield f"Next: remote-sensing maps {self.next_step} --model {quote(str(self.model))}"


def train(
    data: Path,
    /,
    *,
    examples: TrainingData = TrainingData(),
    labels: LabelOptions = LabelOptions(),
    sheet: SheetOptions = SheetOptions(),
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    run: MapRunOptions = MapRunOptions(),
) -> Trained:
    """Trains MapSAM on a few tiles, or on your own sheet with polygons or lines. An interrupted run continues with --resume.

    Example: remote-sensing maps train sheet.tif --labels railways.gpkg --sam sam_vit_b_01ec64.pth --out run

    Args:
        data: tiles with annotation/ (train, val), or a sheet with --labels.
    """
    # unusable data are reported before Lightning is loaded, which alone takes seconds
    training, validation = find_examples(data, examples, labels, sheet)
    import json

    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import fit
    from remote_sensing.maps.model.checkpoints import save_adapter
    from remote_sensing.maps.model.folder import SheetModel, save
    from remote_sensing.maps.training.calibration import calibrate
    from remote_sensing.maps.training.data import MapData, MapTiles
    from remote_sensing.maps.training.module import MapTraining
    from remote_sensing.maps.training.network import start_network

    use_threads(run.threads)
    lr = recipe.lr
    if not lr:  # a network from scratch needs smaller steps than adapters
        lr = 0.001 if network.sam is None else 0.005
    torch.manual_seed(run.seed)
    model = start_network(network, len(training.classes))
    train_tiles = MapTiles(training, augmented=recipe.augment, legacy=recipe.legacy, seed=run.seed)
    val_tiles = MapTiles(validation)
    _check_classes(train_tiles, training.classes)
    files = {*training.files, *validation.files}
    for weights in (network.sam, network.adapter):
        if weights is not None:
            files.add(weights)
    recorded = open_run(
        run,
        flat(data=data, examples=examples, labels=labels, sheet=sheet, network=network, recipe=recipe),
        packages=["torch", "lightning", "attention-suite-remote-sensing"],
        data=data_fingerprint(files),
    )
    device = resolve_device(run.device)
    left = fit(
        MapTraining(model, recipe, lr=lr, channel_order=network.channel_order, seed=run.seed),
        MapData(train_tiles, val_tiles, batch=recipe.batch, seed=run.seed, workers=run.workers),
        run,
        epochs=recipe.epochs,
        score="val_iou",
    )
    model.eval().to(device)
    trained = SheetModel(model, training.classes, training.side, network.channel_order)
    calibration = calibrate(trained, val_tiles.items)
    figures = {
        "tiles": len(train_tiles),
        "validation_tiles": len(val_tiles),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epoch": int(left.best["epoch"]),
        "val_iou": left.best["val_iou"],
        "temperature": calibration.temperature,
        "ece_before": calibration.error_before,
        "ece": calibration.error,
    }
    model.cpu()
    provenance = {
        "trained_on": describe(training),
        "validated_on": describe(validation),
        "notice": training.notice,
        "epoch": figures["epoch"],
        "val_iou": figures["val_iou"],
        "arguments": recorded,
    }
    folder = save(replace(trained, temperature=calibration.temperature, provenance=provenance), run.out / "model")
    adapter = save_adapter(model, run.out / "adapter.safetensors")
    write_text(run.out / "metrics.json", json.dumps(figures, indent=1))
    return Trained(folder, adapter, figures, left.history, _next_step(data))


def _next_step(data: Path) -> str:
    """The next command for a model: a sheet is predicted whole, tiles evaluate it."""
    from remote_sensing.maps.sheets.formats import is_tiles

    if not is_tiles(data):
        return f"predict {quote(str(data))} --vector gpkg"
    part = "test" if (data / "test").is_dir() else "val"
    return f"evaluate {quote(str(data))} --part {part}"


def find_examples(
    data: Path, examples: TrainingData, labels: LabelOptions, sheet: SheetOptions
) -> "tuple[Examples, Examples]":
    """Training and validation examples of tiles or of a sheet with labels.

    Raises:
        UserError: there are none.
    """
    from remote_sensing.maps.sheets.examples import siegfried
    from remote_sensing.maps.sheets.formats import find_sheets
    from remote_sensing.maps.sheets.windows import windows

    if examples.labels is not None:
        sheets = find_sheets(data)
        if len(sheets) != 1:
            raise UserError(f"{data} holds {len(sheets)} sheets", "--labels needs a single sheet")
        parts = windows(sheets[0], examples.labels, side=examples.side, options=labels, reading=sheet)
    elif data.is_dir():
        parts = siegfried(data, "train", labels.classes), siegfried(data, "val", labels.classes)
    else:
        raise UserError(f"{data}: a sheet needs its labels", "--labels FILE.gpkg names polygons or lines on it")
    training, validation = parts
    return training.first(examples.shots), validation.first(examples.shots)


def describe(examples: "Examples") -> dict[str, Any]:
    """What a model folder records of its tiles: number, size, and a digest of each."""
    return {
        "tiles": len(examples.names),
        "side": examples.side,
        "pixel": examples.pixel,
        "digests": [examples.digest(name) for name in examples.names],
    }


def _check_classes(tiles: Any, classes: Sequence[str]) -> None:
    """Makes sure that every class occurs in the training tiles."""
    import numpy as np

    present: set[int] = set()
    for _, label in tiles.items:
        present.update(np.unique(label).tolist())
    for number, name in enumerate(classes, 1):
        if number not in present:
            raise UserError(f"no training tile holds the class {name!r}", "label some of it, or remove the class")
