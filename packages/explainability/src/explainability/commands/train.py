"""``explainability train``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, use_threads
from explainability.training.recipe import Recipe

if TYPE_CHECKING:
    from explainability.models.network import Network, NetworkConfig


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that ended.

    Attributes:
        model: its model folder.
        accuracy: on the validation pictures, of the kept epoch; None where there were none.
        trained: numbers that were trained.
    """

    model: Path
    accuracy: float | None
    trained: int

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "accuracy": self.accuracy, "trained_parameters": self.trained}

    def lines(self) -> Iterable[str]:
        if self.accuracy is not None:
            yield f"Accuracy on validation pictures {self.accuracy:.3f}"
        yield f"Trained numbers: {self.trained:,}"
        yield f"Model folder: {self.model}"
        yield f"Next: explainability explain PICTURE --model {self.model}"


def train(folder: Path, /, *, recipe: Recipe = Recipe(), run: RunOptions = RunOptions()) -> Trained:
    """Trains a classifier on pictures by class: a plain vision transformer, Prompt-CAM, TCPA or SAT. The kept epoch is the best on validation pictures.

    Example: explainability train shapes --method prompt-cam --out run

    Args:
        folder: a folder of pictures per class, or train and val with such folders; without val a fifth of each class validates.
    """
    import torch

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import fit
    from explainability.models.loading import Classifier, save_adapter, save_network
    from explainability.models.network import NetworkConfig
    from explainability.training.data import Pictures, PictureSet, digest, split
    from explainability.training.module import NetworkTraining

    use_threads(run.threads)
    classes, training, validation = split(folder, run.seed, select=recipe.select)
    config = NetworkConfig(
        classes=classes,
        kind=recipe.method,
        backbone=recipe.backbone,
        image_size=recipe.image_size,
        patch_size=recipe.patch_size,
        width=recipe.width,
        depth=recipe.depth,
        heads=recipe.heads,
        prompts=recipe.prompts,
        taken=recipe.taken,
        dropout=recipe.dropout,
    )
    if recipe.taken > recipe.prompts:
        raise UserError(f"--taken {recipe.taken} of --prompts {recipe.prompts}", "a token takes at most all of a pool")
    if recipe.adapter and recipe.method not in ("prompt-cam", "tcpa"):
        raise UserError(f"--adapter: {recipe.method} trains its backbone too", "prompt-cam and tcpa leave it frozen")
    if recipe.adapter and not (recipe.start or recipe.backbone):
        raise UserError(
            "--adapter needs a backbone that can be loaded again", "give --start RUN/model or --backbone NAME"
        )
    torch.manual_seed(run.seed)
    network = build(config, recipe)
    recorded = open_run(
        run,
        flat(folder=folder, recipe=recipe),
        packages=["torch", "lightning", "timm"],
        data=data_fingerprint([*training.files, *validation.files]),
    )
    size = (config.image_size, config.image_size)
    classifier = Classifier(network, size, config.mean, config.std, classes)
    sets = [PictureSet(labelled, classifier) for labelled in (training, validation)]
    module = NetworkTraining(network, recipe, run.seed)
    scored = len(validation.files) > 0
    left = fit(
        module,
        Pictures(sets[0], sets[1], recipe.batch_size, run.workers, run.seed),
        run,
        epochs=recipe.epochs,
        score="accuracy" if scored else "epoch",
        trainer={"limit_val_batches": 1.0 if scored else 0},
    )
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    known = sorted({digest(file) for file in (*training.files, *validation.files)})
    provenance = {"trained_on": str(folder), "method": recipe.method, "pictures": known, "arguments": recorded}
    model = save_network(network, run.out / "model", provenance)
    if recipe.adapter:
        save_adapter(network, run.out / "adapter", Path(recipe.start) if recipe.start else None, provenance)
    return Trained(model, left.best.get("accuracy"), trained)


def build(config: "NetworkConfig", recipe: Recipe) -> "Network":
    """The network before training, with the backbone's published weights or those of another run.

    Raises:
        UserError: impossible sizes, no such backbone or no weights of it, or another run's backbone has other sizes.
    """
    from explainability.models.loading import load_network
    from explainability.models.network import Network

    try:
        network = Network(config)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"no network can be built: {error}", "change --width, --heads, --patch-size or --backbone"
        ) from None
    if recipe.backbone:
        import timm

        from core_runtime.hub import hub_errors

        with hub_errors(f"timm:{recipe.backbone}", recipe.backbone, "leave out --backbone, or give --start RUN/model"):
            published = timm.create_model(recipe.backbone, pretrained=True, num_classes=0, img_size=config.image_size)
        _take_over(network, published)
    elif recipe.start:
        other = load_network(recipe.start)
        _take_over(network, getattr(other.model, "backbone", other.model))
    if recipe.drop_path:
        drop_paths(getattr(network.model, "backbone", network.model), recipe.drop_path)
    return network


def drop_paths(backbone: Any, most: float) -> None:
    """Stochastic depth while the model trains: linearly from 0 in the first block to `most` in the last. No part of a model folder."""
    from timm.layers.drop import DropPath

    last = max(1, len(backbone.blocks) - 1)
    for number, block in enumerate(backbone.blocks):
        block.drop_path1 = DropPath(most * number / last)
        block.drop_path2 = DropPath(most * number / last)


def _take_over(network: "Network", backbone: Any) -> None:
    own = getattr(network.model, "backbone", network.model)
    state = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith("head.")}
    try:
        missing, unexpected = own.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"the backbone to start from has other sizes: {str(error).splitlines()[-1].strip()}") from None
    missing = [name for name in missing if not name.startswith("head.")]
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:3])
        raise UserError(
            f"the backbone to start from does not fit: {names}", "train it with the same --depth, --width and --heads"
        )
