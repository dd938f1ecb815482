"""``remote-sensing landuse train``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Names, RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from remote_sensing.landuse.commands.evaluate import measure_lines
from remote_sensing.landuse.model.sizes import NetworkOptions
from remote_sensing.landuse.scenes.layouts import PARTS, Download, TileOptions, TileSet, find_tiles
from remote_sensing.landuse.training.recipe import Recipe
from remote_sensing.notices import read_notice

if TYPE_CHECKING:
    from torch import nn

    from remote_sensing.landuse.cohort import Split
    from remote_sensing.landuse.scenes.bands import Preprocessing


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: layout, split, counts, parameters, accuracy of validation and test.
        history: one row per epoch.
        data: the tiles that it was trained on.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    data: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        values, split = self.values, self.values["split"]
        parts = f"{split['train']} train, {split['val']} validate, {split['test']} test"
        yield f"{values['tiles']} tiles ({values['layout']}); split {split['name']}: {parts}"
        selected = f"epoch {self.epoch} of {values['epochs']} selected (validation {values['val_accuracy']:.1%})"
        yield f"{values['network']}, {values['parameters']:,} parameters; {selected}"
        yield "On the test tiles:"
        yield from measure_lines(values["test"])
        yield f"Model folder: {self.model}"
        yield f"Next: remote-sensing landuse evaluate {quote(str(self.data))} --model {quote(str(self.model))}"


def train(
    data: Download,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),
    recipe: Recipe = Recipe(),
    tiles: TileOptions = TileOptions(),
    bands: Names | None = None,
    weights: Path | None = None,
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a network with its published recipe and evaluates it on the test tiles.

    Example: remote-sensing landuse train EuroSAT_RGB --split random70 --precision 16-mixed --out run

    Args:
        bands: a subset of the 13 bands by name: B02,B03,B04,B08.
        weights: ImageNet weights of a ResNet (a local file).
    """
    # unusable data are reported before Lightning is loaded, which alone takes seconds
    download = find_tiles(data, tiles.kind)
    import torch

    from core_runtime.folders import fingerprint, open_run, write_text
    from core_runtime.identity import identity
    from core_runtime.training import fit
    from remote_sensing.landuse.cohort import classes_in_words, copies_in_words, split_tiles
    from remote_sensing.landuse.metrics import measure
    from remote_sensing.landuse.model.folder import save_model
    from remote_sensing.landuse.model.inference import LandUseModel, predict_tiles
    from remote_sensing.landuse.reports.figures import draw_history
    from remote_sensing.landuse.scenes.store import decoded, digests, tile_pixel_size
    from remote_sensing.landuse.training.data import LandUseData
    from remote_sensing.landuse.training.module import LandUseTraining, class_weights

    use_threads(run.threads)
    recipe = recipe.complete(network.network, download.classes)
    split = split_tiles(download, tiles.split, run.seed)
    prepare = _preprocessing(bands, download)
    loss_weights = class_weights(recipe.class_weights, download, split)
    store = decoded(download, tiles.cache)
    contents, size = digests(store), store.shape[2]
    for words in (*classes_in_words(download.classes), *copies_in_words(contents, download.labels, split)):
        warn(words)
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    model = _network(network, weights, classes=len(download.classes), bands=len(prepare.bands), size=size)
    # Lists of a split and weights may be changed where they lie: their paths stay the same.
    learned_from = {"split": asdict(split), "weights": weights and identity(weights)}
    arguments = flat(data=data, weights=weights, network=network, recipe=recipe, tiles=tiles, bands=bands)
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "lightning", "attention-suite-remote-sensing"],
        data=fingerprint({"files": download.files, "labels": download.labels, "pixels": contents, **learned_from}),
    )
    loaders = LandUseData(
        store, download, split, batch=recipe.batch, bands=prepare.bands, workers=run.workers, seed=run.seed
    )
    device = resolve_device(run.device)
    notice = read_notice(Path(download.base))
    history, best = fit(
        LandUseTraining(model, prepare, recipe, loss_weights, run.seed),
        loaders,
        run,
        epochs=recipe.epochs,
        score="val_accuracy",
        patience=recipe.patience,
    )
    ready = LandUseModel(model.eval().to(device), prepare, download.classes, size, None, {})
    metrics = measure(*predict_tiles(ready, loaders.test, batch=2 * recipe.batch), download.classes)
    values = {
        **_description(download, split),
        "bands": list(prepare.bands),
        "network": network.network,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": len(history),
        "val_accuracy": best["val_accuracy"],
        "test": metrics.plain(),
    }
    provenance = {
        "notice": notice,
        "trained_on": {name: values[name] for name in ("layout", "tiles", "split")},
        "epoch": int(best["epoch"]),
        "arguments": recorded,
        "test_accuracy": metrics.accuracy,
        "tiles": _contents_of_parts(contents, split),
    }
    folder = save_model(
        model.cpu(),
        run.out / "model",
        preprocessing=prepare,
        classes=download.classes,
        tile_size=size,
        pixel_size=tile_pixel_size(download),
        provenance=provenance,
    )
    draw_history(history, run.out / "figures" / "training.png", notice=notice)
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, int(best["epoch"]), values, history, data)


def _network(network: NetworkOptions, weights: Path | None, *, classes: int, bands: int, size: int) -> "nn.Module":
    """The network that training begins with.

    Raises:
        UserError: sizes that do not fit the tiles, or weights of another network.
    """
    from remote_sensing.landuse.model.networks import build_network, load_pretrained

    model = build_network(
        network.network,
        classes=classes,
        bands=bands,
        tile_size=size,
        width=network.width,
        depths=network.depths,
        drop=network.drop,
    )
    if weights is not None:
        load_pretrained(model, weights)
    return model


def _description(download: TileSet, split: "Split") -> dict[str, Any]:
    """The data of a run, in figures and names."""
    counts = {part: len(split.part(part)) for part in PARTS}
    return {
        "layout": download.layout,
        "tiles": len(download.files),
        "classes": list(download.classes),
        "split": {"name": split.name, **counts},
    }


def _contents_of_parts(contents: Sequence[str], split: "Split") -> dict[str, str]:
    """The digests of each part's tiles, so that `evaluate` knows the training tiles again, under any name."""
    return {part: "".join(contents[number] for number in split.part(part)) for part in PARTS}


def _preprocessing(bands: Names | None, download: TileSet) -> "Preprocessing":
    """How the tiles become the network's input: all of their bands, or those that were asked for.

    Raises:
        UserError: bands of tiles that have none by name, or unknown ones.
    """
    from remote_sensing.landuse.scenes.bands import preprocessing

    if bands and download.is_rgb:
        raise UserError(
            "--bands names bands of 13-band tiles, but these are RGB", "leave out --bands, or use --kind ms"
        )
    try:
        return preprocessing(bands or download.bands)
    except ValueError as error:
        raise UserError(str(error)) from None
