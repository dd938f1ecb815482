"""``medical-segmentation similar train``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted
from core_runtime.options import RunOptions, flat, resolve_device, use_threads
from core_runtime.terminal import warn
from medical_segmentation.similar.images import find_images, image_digest, require_classes
from medical_segmentation.similar.options import EmbeddingOptions, Recipe
from medical_segmentation.similar.results import judgement_lines


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        epoch: the selected one.
        values: parts, learners, measures of the test images.
        history: one row per epoch.
        data: what it was trained on.
    """

    model: Path
    epoch: int
    values: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    data: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "epoch": self.epoch, **self.values}

    def lines(self) -> Iterable[str]:
        parts, values = self.values["parts"], self.values
        yield f"{parts['train']} images trained, {parts['val']} select the epoch, {parts['test']} judge ({values['layout']})"
        ranges = ", ".join(f"{start}-{stop - 1}" for start, stop in values["learners"])
        yield f"epoch {self.epoch + 1} of {values['epochs']} selected; {counted(len(values['learners']), 'learner')}: coordinates {ranges}"
        yield judgement_lines("test images", values["test"])
        yield f"Model folder: {self.model}"
        yield f"Next: medical-segmentation similar evaluate {quote(str(self.data))} --model {quote(str(self.model))}"


def train(
    data: Path,
    /,
    *,
    embedding: EmbeddingOptions = EmbeddingOptions(),
    recipe: Recipe = Recipe(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains an embedding whose coordinates are shared out among learners, adding learners while they help.

    Example: medical-segmentation similar train breastmnist.npz --backbone resnet18 --image-size 64 --epochs 60 --lr 1e-4 --out run

    Args:
        data: a folder of class folders, a table with columns path and label, a list file, or a MedMNIST .npz.
    """
    images = find_images(data)
    from medical_segmentation.similar.cohort import split_images

    # unusable data are reported before Lightning is loaded
    parts = split_images(images, run.seed, official_protocol=recipe.official_protocol)
    if embedding.learners * 2 > embedding.size:
        raise UserError(
            f"--learners {embedding.learners}: {embedding.size} coordinates are too few for them",
            "a learner needs two or more",
        )
    if len(parts["train"]) < embedding.learners * recipe.per_class:
        raise UserError(
            f"{data}: {len(parts['train'])} training images are too few for {embedding.learners} learners", "use fewer"
        )
    digests = {number: image_digest(images, number) for numbers in parts.values() for number in numbers}
    trained = {digests[number] for number in parts["train"]}
    for part in ("val", "test"):
        unseen = [number for number in parts[part] if digests[number] not in trained]
        if len(unseen) < len(parts[part]):
            copies = len(parts[part]) - len(unseen)
            warn(f"{counted(copies, 'image')} of the part {part} left out: among the training images, too")
            require_classes(images, unseen, f"the part {part}")
            parts[part] = unseen
    import numpy as np
    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history, fit
    from medical_segmentation.similar.judging import judge
    from medical_segmentation.similar.model.embedding import EmbeddingConfig, EmbeddingNet
    from medical_segmentation.similar.model.folder import save_model
    from medical_segmentation.similar.training.data import SubspaceData
    from medical_segmentation.similar.training.module import SubspaceTraining

    use_threads(run.threads)
    arguments = flat(data=data, embedding=embedding, recipe=recipe)
    root = data if data.is_dir() else data.parent
    files = [data] if images.arrays is not None else [root / name for name in images.names]
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "lightning", "timm", "attention-suite-medical-segmentation"],
        data=data_fingerprint(files),
    )
    borders = np.linspace(0, embedding.size, embedding.learners + 1).round().astype(int).tolist()
    config = EmbeddingConfig(
        embedding.backbone,
        embedding.size,
        tuple(pairwise(borders)),
        embedding.attention,
        embedding.normalise,
        frozen_norms=not embedding.train_norms,
    )
    torch.manual_seed(run.seed)  # the same initial weights for every run with this seed
    try:
        network = EmbeddingNet(config, pretrained=embedding.pretrained)
    except OSError as error:
        raise UserError(
            f"the weights of {embedding.backbone} cannot be fetched: {error}", "train without --pretrained"
        ) from None
    training = SubspaceTraining(
        network, recipe, images, parts["train"], parts["val"], image_size=embedding.image_size, seed=run.seed
    )
    loaders = SubspaceData(
        images, parts["train"], recipe, size=embedding.image_size, workers=run.workers, seed=run.seed
    )
    device = resolve_device(run.device)
    history, best = fit(
        training,
        loaders,
        run,
        epochs=recipe.epochs,
        score="val_nmi",
        trainer={"reload_dataloaders_every_n_epochs": 1},
    )
    network.to(device)
    ready = training.ready()
    embeddings, features = ready.embed(images, parts["test"])
    points = features if recipe.loss == "cross-entropy" else embeddings
    labels = np.array([images.labels[number] for number in parts["test"]])
    measures = judge(points, labels, images.classes, seed=run.seed)
    values = {
        "layout": images.layout,
        "classes": list(images.classes),
        "parts": {name: len(numbers) for name, numbers in parts.items()},
        "backbone": embedding.backbone,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "epochs": len(history),
        "learners": [list(each) for each in network.learners],
        "val_nmi": best["val_nmi"],
        "test": measures,
    }
    folder = save_model(
        network.cpu(),
        run.out / "model",
        image_size=embedding.image_size,
        classes=images.classes,
        provenance={
            "loss": recipe.loss,
            "epoch": int(best["epoch"]),
            "arguments": recorded,
            "images": {
                "train": sorted(trained),
                "val": [] if recipe.official_protocol else [digests[number] for number in parts["val"]],
            },
        },
    )
    draw_history(history, run.out / "figures" / "training.png", [("train_loss",), ("val_nmi",), ("learners",)])
    write_text(run.out / "metrics.json", json.dumps(values, indent=1).replace("NaN", "null") + "\n")
    return Trained(folder, int(best["epoch"]), values, history, data)
