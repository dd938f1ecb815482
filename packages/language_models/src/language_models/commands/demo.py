"""``language-models demo``: sample → train → generate → a small arena → report.html."""

from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Full, Overwrite, RunOptions, Seed
from language_models.commands.arena import ArenaOptions, arena
from language_models.commands.generate import DecodingOptions, generate
from language_models.commands.train import train
from language_models.training.recipe import Recipe

KINDS = ("standard", "sliding")


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Trains a small model, lets it write, and compares mechanisms: a needle beyond the window is missed by the windowed twin.

    Example: language-models demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from core_runtime.report import Report
    from language_models.reports.arena import draw_curves, draw_needles
    from language_models.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    story = make_samples(out / "texts", seed=seed, overwrite=True)[0]
    recipe = Recipe(
        kind="dma", params=60_000, tokens=300_000 if full else 40_000, context=64, batch=8, lr=1e-2, save_every=50
    )
    trained = train(str(story), recipe=recipe, run=RunOptions(out=out / "run", seed=seed, overwrite=True, device="cpu"))
    prompt = "In the morning"
    text = generate(prompt, model=str(trained.model), decoding=DecodingOptions(new_tokens=60), device="cpu").text
    met = arena(
        text=story,
        kinds=(*KINDS, *(MORE if full else ())),
        budget=budget(full),
        out=out / "arena",
        device="cpu",
        run=BulkOptions(overwrite=True),
    )
    by_kind = {row.kind: row for row in met.rows}
    length = met.rows[0].context
    shares = {kind: by_kind[kind].needles[length].mean or 0.0 for kind in by_kind}
    headline = (
        f"Of needles hidden in {length} tokens the whole attention finds {shares['standard']:.0%}, "
        f"its twin with a window of {length // 4} finds {shares['sliding']:.0%} (chance 6 %)."
    )
    curves, grid = draw_curves(met.rows, met.budget), draw_needles(met.rows)
    caption = "Two models of equal size, trained on the same batches. A needle is one token that the end of the text asks for."
    report = Report("language-models demo", lead=headline).picture(curves, caption)
    pictures = [(curves, caption)]
    if grid is not None:
        where = "Needles by length (across) and depth (down): the window finds what is near the end alone."
        report.picture(grid, where)
        pictures.append((grid, where))
    report.heading("A model that writes").text(
        f"Trained on {recipe.tokens:,} tokens with dynamic mask attention: {trained.bits_per_byte:.2f} bits per byte of held-out text."
    )
    report.command(prompt + text)
    report.heading("Table").table(met.titles, met.table)
    report.heading("Next").command(
        f"language-models generate 'At noon' --model {trained.model} --new-tokens 200 --temperature 0.8",
        "language-models arena --kinds all --params 300000 --tokens 500000 --seeds 3 --text YOUR.txt",
    )
    metrics = {"bits_per_byte": trained.bits_per_byte, **{f"needle_{kind}": share for kind, share in shares.items()}}
    return DemoResult(headline, report.write(out / "report.html"), pictures, met.titles, met.table, metrics)


MORE = ("dma", "landmark", "titans-mag")


def budget(full: bool) -> ArenaOptions:
    """What every mechanism of the demo gets."""
    return ArenaOptions(
        params=60_000,
        tokens=600_000 if full else 80_000,
        seeds=1,
        context=32,
        batch=8,
        lr=1e-2,
        needle_lengths=(16, 32),
        needles=20,
        text_windows=8,
        recall_steps=0,
        speed_lengths=(0,),
    )
