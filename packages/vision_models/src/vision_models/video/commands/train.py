"""``vision-models video train``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.options import RunOptions, flat, use_threads
from vision_models.video.options import VMoBAOptions
from vision_models.video.recipe import NetworkOptions, Recipe

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
    import time

    import torch

    from core_attention.checkpoints.folders import save_model
    from core_runtime.folders import open_run, write_text
    from core_runtime.identity import data_fingerprint
    from core_runtime.models import seal
    from core_runtime.training import draw_history, fit
    from vision_models.video.model import SmallWan, WanConfig
    from vision_models.video.training import ClipData, FlowTraining, find_clips, judged_loss, read_latents, split_clips
    from vision_models.video.wan import apply_vmoba, remove_vmoba

    files = find_clips(clips)
    trained, held_out = split_clips(files)
    use_threads(run.threads)
    config = WanConfig(
        num_layers=network.layers,
        num_attention_heads=network.heads,
        attention_head_dim=network.head_dim,
        ffn_dim=network.ffn,
        frames=network.frames,
        height=network.height,
        width=network.width,
    )
    latents, judged = read_latents(trained, config), read_latents(held_out, config)
    torch.manual_seed(run.seed)
    model = SmallWan(config)
    arguments = flat(clips=clips, network=network, vmoba=vmoba, recipe=recipe)
    packages = ["torch", "diffusers", "lightning", "attention-suite-vision-models"]
    recorded = open_run(run, arguments, packages=packages, data=data_fingerprint(files))
    if network.attention == "vmoba":
        apply_vmoba(model.transformer, vmoba)
    began = time.monotonic()
    history, _ = fit(
        FlowTraining(model, recipe, run.seed),
        ClipData(latents, judged, recipe, workers=run.workers, seed=run.seed),
        run,
        epochs=recipe.epochs,
    )
    steps = recipe.epochs * -(-len(trained) // recipe.batch)
    seconds = (time.monotonic() - began) / steps
    model = model.to("cpu")
    losses = judged_loss(model, judged)
    patch = config.patch_size
    values = {
        "attention": network.attention,
        "train": len(trained),
        "test": len(held_out),
        "tokens": config.frames // patch[0] * (config.height // patch[1]) * (config.width // patch[2]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "seconds_per_step": seconds,
        "seed": run.seed,
        "loss": float(losses.mean()),
        "loss_by_clip": {clip.name: round(float(loss), 6) for clip, loss in zip(held_out, losses, strict=True)},
    }
    remove_vmoba(model.transformer)
    described = {"attention": network.attention, "vmoba": flat(vmoba=vmoba)}
    provenance = {"loss": values["loss"], "held_out": [clip.name for clip in held_out], "arguments": recorded}
    folder = seal(save_model(model, run.out / "model", preprocessing=described, provenance=provenance))
    draw_history(history, run.out / "figures" / "training.png", (("train_loss", "val_loss"), ("lr",)))
    write_text(run.out / "metrics.json", json.dumps(values, indent=1) + "\n")
    return Trained(folder, values, clips)
