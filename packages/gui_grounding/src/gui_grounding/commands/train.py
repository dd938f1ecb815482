"""``gui-grounding train``."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import RunOptions, flat, use_threads
from gui_grounding.training.recipe import Recipe, Start


@dataclass(frozen=True)
class Trained(Outcome):
    """A trained model.

    Attributes:
        model: its folder.
        values: what was learned from, the kept epoch and its measures.
    """

    model: Path
    values: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, **self.values}

    def lines(self) -> Iterable[str]:
        for note in self.values["notes"]:
            yield f"Note: {note}"
        yield self.values["account"]
        parameters, learning = self.values["parameters"], self.values["learning"]
        best_epoch = f"epoch {self.values['epoch'] + 1} of {self.values['epochs']} is kept"
        yield f"{parameters:,} parameters, {learning:,} of them learned; {best_epoch}"
        if "val_hit" in self.values:
            yield f"Held out: hit {self.values['val_hit']:.3f}, loss {self.values['val_loss']:.3f}"
        yield f"Model: {self.model}"
        words = ["gui-grounding", "predict", *self.values["example"], "--model", str(self.model)]
        yield f"Next: {shlex.join(words)}"


def train(
    items: Path,
    /,
    *,
    images: Path | None = None,
    valid: Path | None = None,
    recipe: Recipe = Recipe(),
    start: Start = Start(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a pointer head, and as much of the model below it as is asked for.

    Example: gui-grounding train data/training.json --base Qwen2.5-VL-3B-Instruct --learns lora --out run

    Args:
        items: a mixture of sets (YAML), conversations in the published format, or a benchmark's annotations.
        images: folder of the screenshots; default: images/ beside the annotations.
        valid: items that choose the epoch and calibrate; default: a share of the training screenshots.
    """
    import torch

    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history, fit
    from gui_grounding.items.mixtures import read_training
    from gui_grounding.model.folder import save_model
    from gui_grounding.model.lora import add_low_rank, merge_low_rank
    from gui_grounding.training.data import ScreenData
    from gui_grounding.training.module import PointerTraining, fit_calibration, held_out_answers

    use_threads(run.threads)
    recipe = recipe.filled(on_base=start.base is not None)
    data = read_training(items, images=images, seed=run.seed)
    held_out = None
    if valid is not None:
        held_out = read_training(valid, seed=run.seed)
    learned, judged = split_screens(data, held_out, recipe, run.seed)
    loaded = start_model(start, recipe, data, run.seed)
    prepared = fitted_pixels(loaded.prepared, start)
    network, tokens = loaded.network, loaded.tokens
    sources = [path.resolve() for path in (items, images, valid) if path is not None]
    recorded = open_run(
        run,
        flat(items=items, images=images, valid=valid, recipe=recipe, start=start),
        packages=["torch", "transformers", "lightning", "attention-suite-gui-grounding"],
        data=data_fingerprint(sources),
    )
    torch.manual_seed(run.seed)
    if recipe.learns == "lora":
        add_low_rank(network, recipe.rank)
    steps = -(-len(learned) // recipe.batch) * recipe.epochs
    training = PointerTraining(network, tokens, recipe, steps=steps, seed=run.seed)
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    screens = ScreenData(learned, judged, tokens, prepared, recipe, workers=run.workers, seed=run.seed)
    left = fit(
        training,
        screens,
        run,
        epochs=recipe.epochs,
        score=(lambda row: row["val_hit"] - 1e-3 * row["val_loss"]) if judged else "epoch",
        patience=recipe.patience,
        trainer={"gradient_clip_val": 1.0},
    )
    if recipe.learns == "lora":
        merge_low_rank(network)
    network.requires_grad_(True)
    # of the kept epoch, not of the last one
    calibration = fit_calibration(held_out_answers(network, screens.val_dataloader()))
    if calibration is not None:
        prepared = replace(prepared, slope=calibration[0], offset=calibration[1])
    example = (judged or learned)[0]  # a held-out screenshot, where there is one
    values = {
        "account": data.account,
        "notes": [*data.notes, *_doubts(start, recipe)],
        "screens": {"train": len(learned), "valid": len(judged)},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "learning": learning,
        "epoch": int(left.best["epoch"]),
        "epochs": len(left.history),
        "calibrated": calibration is not None,
        "example": [str(example.image), example.questions[0].instruction],
        **{name: left.best[name] for name in ("train_loss", "val_loss", "val_hit") if name in left.best},
    }
    provenance = {
        "start": start.base or "random weights",
        **{name: getattr(recipe, name) for name in ("learns", "labels", "sigma_factor", "loss")},
        "screens": sorted({example.image.name for example in learned}),
        "data": data_fingerprint(sources),
        "epoch": values["epoch"],
        "arguments": recorded,
    }
    folder = save_model(network.cpu(), tokens, run.out / "model", prepared=prepared, provenance=provenance)
    panels = [["train_loss", "val_loss"]]
    if judged:
        panels.append(["val_hit"])
    draw_history(left.history, run.out / "figures" / "training.png", panels)
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, values)


def _doubts(start: Start, recipe: Recipe) -> Iterable[str]:
    """What a user should know of a choice that is allowed, and seldom meant."""
    if start.base is None and recipe.learns != "all":
        yield (
            f"without --base all weights are random, and under --learns {recipe.learns} most of them stay so: --learns all trains them"
        )


def split_screens(data: Any, held_out: Any, recipe: Recipe, seed: int) -> tuple[list[Any], list[Any]]:
    """Training and validation screenshots; no screenshot is on both sides.

    Raises:
        UserError: a validation screenshot is among those of training.
    """
    import random

    if held_out is not None:
        both = {example.image.resolve() for example in data.examples} & {e.image.resolve() for e in held_out.examples}
        if both:
            raise UserError(
                f"{len(both)} screenshots are in the training and in the validation items, {sorted(both)[0].name} is one",
                "split them by screenshot",
            )
        return list(data.examples), list(held_out.examples)
    # a screenshot may stand in several sets of a mixture: it is on one side with all of its questions
    images = sorted({example.image for example in data.examples})
    random.Random(seed).shuffle(images)
    count = int(len(images) * recipe.share)
    held_out = set(images[:count])
    learned = [example for example in data.examples if example.image not in held_out]
    return learned, [example for example in data.examples if example.image in held_out]


def start_model(start: Start, recipe: Recipe, data: Any, seed: int) -> Any:
    """The model that training begins with."""
    from gui_grounding.model.starting import small_start, start_from
    from gui_grounding.model.tiny import TinySizes
    from gui_grounding.model.tokens import SYSTEM_MESSAGE

    message = None
    if start.system_message is not None:
        path = Path(start.system_message)
        try:
            message = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--system-message {path}: cannot be read ({error})", "give a text file") from None
    suppress = recipe.loss == "v2p"
    if start.base is not None:
        loaded = start_from(start.base, suppress=suppress, seed=seed)
        if message is not None:
            loaded = replace(loaded, prepared=replace(loaded.prepared, system_message=message))
    else:
        texts = [question.instruction for example in data.examples for question in example.questions]
        sizes = TinySizes(start.width, start.layers, start.width, start.vision_layers)
        loaded = small_start(texts, sizes, system_message=message or SYSTEM_MESSAGE, suppress=suppress, seed=seed)
    weight = loaded.network.config
    loaded.network.config = replace(weight, suppress=suppress, lm_weight=recipe.lm_weight)
    return loaded


def fitted_pixels(prepared: Any, start: Start) -> Any:
    """What the model expects, with the pixel limits that were asked for.

    Raises:
        UserError: the least is more than the most.
    """
    least, most = start.min_pixels or prepared.min_pixels, start.max_pixels or prepared.max_pixels
    if least > most:
        raise UserError(f"--min-pixels {least} is more than --max-pixels {most}")
    return replace(prepared, min_pixels=least, max_pixels=most)
