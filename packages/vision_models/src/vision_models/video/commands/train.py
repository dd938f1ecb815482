"""``vision-models video train``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.options import RunOptions, flat, use_threads
from vision_models.video.options import VMoBAOptions
from vision_models.video.recipe import NetworkOptions, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from vision_models.video.model import SmallWan, WanConfig

Clips = Annotated[Path, Parameter(help="Folder of videos; every fourth is held out.")]


@dataclass(frozen=True)
class Trained(Outcome):
    """A finished run.

    Attributes:
        model: its model folder.
        values: sizes, loss of the held-out clips, seconds per step.
        clips: what it was trained on.
    """

    model: Path
    values: Mapping[str, Any]
    clips: Path

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, **self.values}

    def lines(self) -> Iterable[str]:
        values = self.values
        yield f"{values['train']} clips train, {values['test']} are held out; {values['tokens']:,} tokens a clip, {values['parameters']:,} parameters"
        yield f"{values['attention']}: loss of the held-out clips {values['loss']:.4f} after {values['steps']} steps, {values['seconds_per_step']:.3f} s a step"
        yield f"Model folder: {self.model}"
        yield f"Next: vision-models video evaluate {quote(str(self.clips))} --model {quote(str(self.model))}"


def train(
    clips: Clips,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),
    vmoba: VMoBAOptions = VMoBAOptions(),
    recipe: Recipe = Recipe(),
    run: RunOptions = RunOptions(),
) -> Trained:
    """Trains a small Wan from scratch by flow matching, with VMoBA or with full attention under the same budget.

    Example: vision-models video train clips/ --attention vmoba --epochs 20 --out run
    """
    from vision_models.video.model import need_diffusers

    need_diffusers()
    import torch

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from vision_models.video.model import SmallWan
    from vision_models.video.training import find_clips, judged_loss, read_latents, split_clips

    files = find_clips(clips)
    trained, held_out = split_clips(files)
    use_threads(run.threads)
    config = _config_of(network)
    latents, judged = read_latents(trained, config), read_latents(held_out, config)
    torch.manual_seed(run.seed)
    model = SmallWan(config)
    arguments = flat(clips=clips, network=network, vmoba=vmoba, recipe=recipe)
    packages = ["torch", "diffusers", "lightning", "attention-suite-vision-models"]
    recorded = open_run(run, arguments, packages=packages, data=data_fingerprint(files))
    history, steps, seconds = _fit(model, latents, judged, network, vmoba, recipe, run)
    model = model.to("cpu")
    losses = judged_loss(model, judged)
    values = {
        "attention": network.attention,
        "train": len(trained),
        "test": len(held_out),
        "tokens": _tokens_of(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "seconds_per_step": seconds / steps,
        "seed": run.seed,
        "loss": float(losses.mean()),
        "loss_by_clip": {clip.name: round(float(loss), 6) for clip, loss in zip(held_out, losses, strict=True)},
    }
    return Trained(_write(run, model, vmoba, held_out, history, values, recorded), values, clips)


def _config_of(network: NetworkOptions) -> WanConfig:
    """The transformer that the options describe."""
    from vision_models.video.model import WanConfig

    return WanConfig(
        num_layers=network.layers,
        num_attention_heads=network.heads,
        attention_head_dim=network.head_dim,
        ffn_dim=network.ffn,
        frames=network.frames,
        height=network.height,
        width=network.width,
    )


def _tokens_of(config: WanConfig) -> int:
    """Tokens of a clip."""
    time, height, width = config.patch_size
    return config.frames // time * (config.height // height) * (config.width // width)


def _fit(
    model: SmallWan,
    latents: Tensor,
    judged: Tensor,
    network: NetworkOptions,
    vmoba: VMoBAOptions,
    recipe: Recipe,
    run: RunOptions,
) -> tuple[Sequence[Mapping[str, float]], int, float]:
    """Trains the network in place, with VMoBA where it is asked for: a row per epoch, the number of steps, and the seconds of all."""
    from core_runtime.training import fit
    from vision_models.video.training import ClipData, FlowTraining
    from vision_models.video.wan import apply_vmoba

    if network.attention == "vmoba":
        apply_vmoba(model.transformer, vmoba)
    began = monotonic()
    history, _ = fit(
        FlowTraining(model, recipe, run.seed),
        ClipData(latents, judged, recipe, workers=run.workers, seed=run.seed),
        run,
        epochs=recipe.epochs,
    )
    steps = recipe.epochs * -(-len(latents) // recipe.batch)
    return history, steps, monotonic() - began


def _write(
    run: RunOptions,
    model: SmallWan,
    vmoba: VMoBAOptions,
    held_out: Sequence[Path],
    history: Sequence[Mapping[str, float]],
    values: Mapping[str, Any],
    recorded: Mapping[str, Any],
) -> Path:
    """Writes the course of the training, the figures and the model folder, which is returned."""
    from core_attention.checkpoints.folders import save_model
    from core_runtime.folders import write_text
    from core_runtime.models import seal
    from core_runtime.training import draw_history
    from vision_models.video.wan import remove_vmoba

    remove_vmoba(model.transformer)
    described = {"attention": values["attention"], "vmoba": flat(vmoba=vmoba)}
    provenance = {"loss": values["loss"], "held_out": [clip.name for clip in held_out], "arguments": recorded}
    folder = seal(save_model(model, run.out / "model", preprocessing=described, provenance=provenance))
    draw_history(history, run.out / "figures" / "training.png", (("train_loss", "val_loss"), ("lr",)))
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return folder
