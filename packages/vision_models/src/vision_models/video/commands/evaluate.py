"""``vision-models video evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, Threads, resolve_device, use_threads
from vision_models.video.commands.train import Clips
from vision_models.video.options import VMoBAOptions
from vision_models.video.results import layer_lines


@dataclass(frozen=True)
class Evaluation(Outcome):
    """A model on clips, with either attention.

    Attributes:
        values: loss with VMoBA and with full attention, with intervals over clips.
        layers: density, recall and relative error of each.
        files: by name.
    """

    values: Mapping[str, Any]
    layers: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {**self.values, "layers": list(self.layers), "files": dict(self.files)}

    def lines(self) -> Iterable[str]:
        values = self.values
        yield values["origin"]
        yield f"{values['clips']} clips; the model was trained with {values['trained_with']} attention"
        for kind in ("vmoba", "full"):
            low, high = values["intervals"][kind]
            yield f"  loss with {kind:6} attention {values[kind]:.4f}  (95 % over clips {low:.4f} to {high:.4f})"
        yield from layer_lines(self.layers)
        for name, path in self.files.items():
            yield f"{name}: {path}"


def evaluate(
    clips: Clips,
    /,
    *,
    model: Model = None,
    out: Out = Path("evaluation"),
    vmoba: VMoBAOptions = VMoBAOptions(),
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a small Wan on held-out clips with VMoBA and with full attention: loss, and what the blocks of each layer keep.

    Example: vision-models video evaluate clips/ --model run/model
    """
    import numpy as np
    import torch

    from core_runtime.folders import write_text
    from core_runtime.models import choose_model
    from core_runtime.statistics import intervals
    from vision_models.video.model import load_small, need_diffusers
    from vision_models.video.published import ADVICE
    from vision_models.video.training import find_clips, judged_loss, mixed, read_latents
    from vision_models.video.wan import apply_vmoba, attention_report, remove_vmoba

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    files = find_clips(clips)
    folder = Path(choose_model(model, advice=ADVICE))
    need_diffusers()
    use_threads(threads)
    small = load_small(folder).to(resolve_device(device))
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = [clip for clip in files if clip.name in described["provenance"].get("held_out", ())]
    origin = "None of these clips trained the model." if own else "Some of these clips may have trained the model."
    judged = own or files
    latents = read_latents(judged, small.config).to(next(small.parameters()).device)
    losses = {"full": judged_loss(small, latents)}
    apply_vmoba(small.transformer, vmoba)
    losses["vmoba"] = judged_loss(small, latents)
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(0)).to(latents)
    state = mixed(latents[:1], noise, torch.tensor([0.5]).to(latents))
    text = latents.new_zeros(1, *small.text)
    report = attention_report(small.transformer, state, torch.tensor([500.0]).to(latents), text)
    remove_vmoba(small.transformer)
    rows = [vars(row) for row in report]
    values: dict[str, Any] = {
        "clips": len(judged),
        "origin": origin,
        "trained_with": described["preprocessing"]["attention"],
    }
    values["intervals"] = {}
    for kind, each in losses.items():
        numbers = each.cpu().numpy()
        values[kind] = float(numbers.mean())
        ends = intervals(lambda i, n=numbers: {"loss": float(np.mean(n[i]))}, range(len(numbers)), bounded=False)[
            "loss"
        ]
        values["intervals"][kind] = [ends.low, ends.high]
    write_text(out / "metrics.json", json.dumps({**values, "layers": rows}, indent=1) + "\n")
    return Evaluation(values, rows, {"metrics": out / "metrics.json"})
