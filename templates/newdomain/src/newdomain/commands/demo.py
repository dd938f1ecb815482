"""``newdomain demo``: sample → train → evaluate → predict → report.html."""

import json
from pathlib import Path

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, Full, Overwrite, RunOptions, Seed
from newdomain.commands.evaluate import evaluate
from newdomain.commands.predict import predict
from newdomain.commands.train import train
from newdomain.training.recipe import Recipe


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Trains on synthetic signals and judges on others.

    Example: newdomain demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from core_runtime.report import Report
    from newdomain.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    make_samples(out / "train", seed=seed, overwrite=True)
    held_out = make_samples(out / "test", seed=seed + 1, overwrite=True)
    run = RunOptions(out=out / "run", seed=seed, overwrite=True)
    model = str(train(out / "train", recipe=Recipe(epochs=200 if full else 60), run=run).model)
    metrics = evaluate(out / "test", model=model, out=out / "run" / "evaluation", overwrite=True).metrics
    predictions = predict(held_out[1], model=model, out=out / "run" / "predictions", run=BulkOptions(overwrite=True))
    prediction = predictions.predictions[0]
    picture = predictions.out / prediction["signal"] / "signal.png"
    headline = (
        f"Held-out signals are told apart with an area under the ROC curve of {metrics['auroc']:.2f} (chance 0.5)."
    )
    caption = f"Probability of a burst {prediction['probability']:.2f}; shaded where the model looks."
    report = Report("newdomain demo", lead=headline).facts(metrics.items()).picture(picture, caption)
    report.heading("Next").command(f"newdomain predict YOUR.csv --model {json.dumps(model)}")
    return DemoResult(headline, report.write(out / "report.html"), [(picture, caption)], metrics=metrics)
