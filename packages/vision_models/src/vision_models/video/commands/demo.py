"""``vision-models video demo``."""

import shutil
import time
from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from vision_models.video.recipe import NetworkOptions, Recipe
from vision_models.video.samples import SampleOptions


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws clips, trains a tiny Wan with VMoBA and one with full attention under one budget, contrasts both, writes report.html.

    Example: vision-models video demo /tmp/video

    Args:
        out: folder for everything that is made.
    """
    from vision_models.video.commands.contrast import contrast
    from vision_models.video.commands.profile import profile
    from vision_models.video.commands.train import train
    from vision_models.video.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "run-vmoba", "run-full", "contrast"):
        shutil.rmtree(out / part, ignore_errors=True)
    began = time.monotonic()
    clips, epochs = (48, 60) if full else (8, 6)
    data = make_samples(out / "data", SampleOptions(clips=clips), seed=seed)
    runs = {}
    for attention in ("vmoba", "full"):
        run = RunOptions(out=out / f"run-{attention}", seed=seed, device="cpu")
        network = NetworkOptions(attention=attention, frames=4, layers=3)
        runs[attention] = train(data["clips"], network=network, recipe=Recipe(epochs=epochs), run=run)
    clip = sorted(data["clips"].glob("*.mp4"))[3]
    shown = contrast(clip, model=str(out / "run-vmoba" / "model"), out=out / "contrast", device="cpu")
    cost = profile("wan2.1-t2v-1.3b", size="1024x576", frames=93)
    return _report(out, runs, shown, cost, time.monotonic() - began)


def _report(out: Path, runs: dict[str, Any], shown: Any, cost: Any, seconds: float) -> DemoResult:
    from core_runtime.report import Report

    rows = []
    for attention, run in runs.items():
        values = run.values
        rows.append((attention, values["loss"], values["steps"], values["seconds_per_step"]))
    columns = ("attention", "loss of unseen clips", "steps", "seconds a step")
    vmoba, full = runs["vmoba"].values, runs["full"].values
    headline = (
        f"Under one budget a tiny Wan with VMoBA reaches a loss of {vmoba['loss']:.3f} on unseen clips, one with full attention "
        f"{full['loss']:.3f}; VMoBA's blocks attend to {shown.values['density']:.0%} of all pairs."
    )
    picture = (
        shown.files["picture"],
        "An unseen clip with noise, denoised with full attention and with VMoBA by the same weights.",
    )
    page = Report("Attention that lets long video fit", lead=headline).picture(*picture)
    page.text(
        "Clips of moving squares were drawn; the models are tiny and see the frames themselves, without a VAE. At this length "
        f"({vmoba['tokens']:,} tokens) blocks save nothing: they pay off from thousands of tokens on a CPU and tens of thousands on a GPU."
    )
    page.table(columns, rows, caption="Same clips, weights at the start, steps and noise.")
    layers = [
        (row["layer"], str(row["chunk"]), row["blocks"], row["density"], row["recall"], row["error"])
        for row in shown.layers
    ]
    page.table(
        ("layer", "blocks of", "blocks", "density", "recall", "relative error"),
        layers,
        caption="What the blocks keep of full attention.",
    )
    costs = [(kind, count / 1e12) for kind, count in cost.flops.items()]
    page.heading("At full size").table(
        ("Wan2.1 1.3B at 1024 × 576, 93 frames", "TFLOPs"),
        costs,
        caption=f"{cost.values['tokens']:,} tokens, one forward.",
    )
    page.heading("With your own model").command(
        "vision-models video profile MODEL --size 832x480 --frames 81",
        "vision-models video contrast clip.mp4 --model MODEL --out contrast",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {
        "loss with vmoba": vmoba["loss"],
        "loss with full": full["loss"],
        "density": shown.values["density"],
        "seconds": seconds,
    }
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [picture], columns, rows, figures)
