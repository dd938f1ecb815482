"""Sample → train → evaluate → predict → report.html."""

import json
from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.report import Report
from core_runtime.suite import DemoResult
from newdomain.predict import Predictor, predict_file
from newdomain.samples import make_samples
from newdomain.training import evaluate, train


def run_demo(out: Path, full: bool, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Trains on synthetic signals and judges on others.

    Raises:
        UserError: `out` holds a demo already and `overwrite` is off.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it")
    make_samples(out / "train", seed=seed, overwrite=True)
    held_out = make_samples(out / "test", seed=seed + 1, overwrite=True)
    model = train(out / "train", out / "run", epochs=200 if full else 60, seed=seed, overwrite=True)
    metrics = evaluate(model, out / "test")
    prediction = predict_file(Predictor(model), held_out[1], out / "run" / "predictions")
    picture = out / "run" / "predictions" / f"{prediction.signal}.png"
    headline = (
        f"Held-out signals are told apart with an area under the ROC curve of {metrics['auroc']:.2f} (chance 0.5)."
    )
    caption = f"Probability of a burst {prediction.probability:.2f}; shaded where the model looks."
    report = Report("newdomain demo", lead=headline).facts(metrics.items()).picture(picture, caption)
    report.heading("Next").command(f"newdomain predict YOUR.csv --model {json.dumps(str(model))}")
    return DemoResult(headline, report.write(out / "report.html"), [(picture, caption)], metrics=metrics)
