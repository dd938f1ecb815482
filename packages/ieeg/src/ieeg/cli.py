"""The verbs of ``ieeg``; no logic."""

from core_runtime.cli import add, application, run
from ieeg.commands.demo import demo
from ieeg.commands.detect import detect
from ieeg.commands.evaluate import evaluate
from ieeg.commands.forecast import forecast
from ieeg.commands.inspect import inspect
from ieeg.commands.models import models
from ieeg.commands.sample import sample
from ieeg.commands.stream import stream
from ieeg.commands.train import train
from ieeg.model.published import RESEARCH_ONLY
from ieeg.training.recipe import PUBLISHED_NAMES

app = application("ieeg", f"Intracranial recordings to forecasts and seizure events (MVPFormer). {RESEARCH_ONLY}")
add(app, sample, inspect)
add(app, train, published=PUBLISHED_NAMES)
add(app, detect, evaluate, forecast, stream, demo)
add(app, detect, name="predict")
app.command(models)


def main() -> None:
    run(app)
