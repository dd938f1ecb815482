"""``vision-language train``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, use_threads
from vision_language.items.item import Boxes
from vision_language.training.recipe import Network, Recipe


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that ended.

    Attributes:
        kind: what was trained.
        account: what it learned from.
        model: its model folder.
        best: of the kept epoch.
    """

    kind: str
    account: str
    model: Path
    best: dict[str, float]

    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind, "account": self.account, "model": self.model, "best": self.best}

    def lines(self) -> Iterable[str]:
        yield self.account
        for name, value in self.best.items():
            yield f"{name:12} {value:.4g}"
        yield f"Model folder: {self.model}"
        if self.kind == "grounding":
            yield f"Next: vision-language ground PICTURE 'the red circle' --model {self.model}"
        else:
            yield f"Next: vision-language index PICTURES --instruction 'which colour is it?' --model {self.model}"


def train(
    kind: Literal["grounding", "focallens"],
    path: Path,
    /,
    *,
    images: Path | None = None,
    boxes: Boxes | None = None,
    recipe: Recipe = Recipe(),
    network: Network = Network(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a grounding network, or embeddings under an instruction. An interrupted run goes on with --resume.

    Example: vision-language train grounding data/grounding.jsonl --out run

    Args:
        kind: grounding (sentence attention) or focallens (FocalLens-CLIP, from nothing).
        path: of grounding JSON lines, ScreenSpot, VizWiz or RefCOCO; of focallens a CSV (path, instruction, answer) or LLaVA's JSON.
        images: folder of the pictures, where it is not the file's.
        boxes: how boxes are counted, where the file does not say so.
    """
    use_threads(run.threads)
    recipe = recipe.filled(kind)
    if not path.exists():
        raise UserError(f"no such file: {path}", "'vision-language sample data' makes some")
    arguments = flat(kind=kind, path=path, images=images, boxes=boxes, recipe=recipe, network=network)
    if kind == "grounding":
        return _grounding(path, images, boxes, recipe, network, run, arguments)
    return _focallens(path, images, recipe, network, run, arguments)


def _grounding(
    path: Path,
    images: Path | None,
    boxes: Boxes | None,
    recipe: Recipe,
    network: Network,
    run: RunOptions,
    arguments: dict[str, Any],
) -> Trained:
    import torch

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import fit
    from vision_language.items.grounding import read_items
    from vision_language.model.folder import save_grounder
    from vision_language.model.grounding import Grounder, Prepared
    from vision_language.model.grounding_network import GroundingConfig, GroundingNetwork
    from vision_language.model.sentences import encoder_named
    from vision_language.training.data import GroundingSet, Loaders, hold_out
    from vision_language.training.module import GroundingTraining

    examples = read_items(path, images=images, boxes=boxes)
    encoder = encoder_named(network.encoder, network.dim)
    side = network.side or 96
    learning, choosing = hold_out(examples.items, recipe.share, run.seed)
    if not learning:
        raise UserError(f"{path} has one picture: none is left to learn from", "set --share 0")
    recorded = open_run(
        run,
        arguments,
        packages=["torch", "lightning", "timm"],
        data=data_fingerprint([examples.path, *sorted({item.image for item in examples.items})]),
    )
    torch.manual_seed(run.seed)
    channels = (16, 24, 32, 48, 64) if network.backbone == "small" else ()
    config = GroundingConfig(
        backbone=network.backbone,
        channels=channels,
        sentence_dim=encoder.dim,
        dropout=0.1 if network.backbone == "small" else 0.5,
        rescale=network.backbone == "small",
    )
    model = GroundingNetwork(config)
    if network.pretrained is not None:
        _load_backbone(model, Path(network.pretrained))
    training = GroundingSet(learning, encoder, side)
    validation = GroundingSet(choosing, encoder, side) if choosing else None
    steps = recipe.epochs * -(-len(learning) // recipe.batch)
    module = GroundingTraining(model, recipe, steps=steps, seed=run.seed, pretrained=network.pretrained is not None)
    left = fit(
        module,
        Loaders(training, validation, recipe.batch, run.workers, run.seed),
        run,
        epochs=recipe.epochs,
        score="val_iou" if choosing else "epoch",
    )
    grounder = Grounder(model.cpu().eval(), encoder, Prepared(side, encoder.name))
    provenance = {"trained_on": examples.account(), "held_out": len(choosing), "arguments": recorded}
    folder = save_grounder(grounder, run.out / "model", provenance=provenance)
    best = {name: left.best[name] for name in ("train_loss", "val_iou") if name in left.best}
    return Trained("grounding", examples.account(), folder, best)


def _load_backbone(model: Any, path: Path) -> None:
    from core_attention.checkpoints.files import read_official
    from core_attention.systems import StateError, load_strictly

    try:
        state = dict(read_official(path))
        for key in [key for key in state if key.startswith(("conv_head", "bn2.", "classifier"))]:
            del state[key]  # what a classifier has beyond the five maps
        load_strictly(model.backbone, state)
    except (OSError, ValueError, StateError) as error:
        raise UserError(f"{path}: {error}", "expected the backbone's weights under timm's names") from None


def _focallens(
    path: Path, images: Path | None, recipe: Recipe, network: Network, run: RunOptions, arguments: dict[str, Any]
) -> Trained:
    import torch
    from torch.utils.data import TensorDataset

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from core_runtime.pictures import open_picture
    from core_runtime.training import fit
    from vision_language.items.triplets import read_triplets
    from vision_language.model.contrastive import answer_ids
    from vision_language.model.folder import save_embedder
    from vision_language.model.retrieval import tiny_embedder
    from vision_language.training.data import Loaders
    from vision_language.training.module import FocalTraining

    examples = read_triplets(path, images=images)
    texts = [text for triplet in examples.triplets for text in (triplet.instruction, triplet.answer)]
    pictures = sorted({triplet.image for triplet in examples.triplets})
    recorded = open_run(
        run, arguments, packages=["torch", "lightning", "transformers"], data=data_fingerprint([path, *pictures])
    )
    torch.manual_seed(run.seed)
    embedder = tiny_embedder(texts, side=network.side or 32, seed=run.seed)
    pixels = {file: embedder.pixels([open_picture(file).image])[0] for file in pictures}
    answers = [triplet.answer for triplet in examples.triplets]
    data = TensorDataset(
        torch.stack([pixels[triplet.image] for triplet in examples.triplets]),
        embedder.embed_texts([triplet.instruction for triplet in examples.triplets]),
        embedder.embed_texts(answers),
        answer_ids(answers),
    )
    steps = recipe.epochs * -(-len(data) // recipe.batch)
    module = FocalTraining(embedder.network, recipe, steps=steps, seed=run.seed)
    left = fit(
        module,
        Loaders(data, None, recipe.batch, run.workers, run.seed),
        run,
        epochs=recipe.epochs,
    )
    embedder.network.cpu().eval()
    provenance = {"trained_on": examples.account(), "without_instructions": recipe.blind, "arguments": recorded}
    folder = save_embedder(embedder, run.out / "model", provenance=provenance)
    return Trained("focallens", examples.account(), folder, {"train_loss": left.best["train_loss"]})
