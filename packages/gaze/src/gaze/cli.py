"""The verbs of ``gaze``; no logic."""

from core_runtime.cli import add, application, run
from gaze.commands.compare import compare
from gaze.commands.demo import demo
from gaze.commands.evaluate import evaluate
from gaze.commands.export import export
from gaze.commands.inspect import inspect
from gaze.commands.models import models
from gaze.commands.plot import plot
from gaze.commands.predict import predict
from gaze.commands.report import report
from gaze.commands.sample import sample
from gaze.commands.train import train

app = application("gaze", "Where do people look while they search, and in which order?")
add(app, sample, inspect, export, plot, report, train, evaluate, compare, predict, demo)
app.command(models)


def main() -> None:
    run(app)
