"""The verbs of ``gui-grounding``; no logic."""

from core_runtime.cli import add, application, run
from gui_grounding.commands.calibrate import calibrate
from gui_grounding.commands.click import click
from gui_grounding.commands.compare import compare
from gui_grounding.commands.demo import demo
from gui_grounding.commands.evaluate import evaluate
from gui_grounding.commands.inspect import inspect
from gui_grounding.commands.models import models
from gui_grounding.commands.plot import plot
from gui_grounding.commands.predict import predict
from gui_grounding.commands.sample import sample
from gui_grounding.commands.serve import serve
from gui_grounding.commands.train import train

app = application("gui-grounding", "Where on this screenshot is what the instruction means?")
add(app, sample, inspect, plot, train, evaluate, compare, predict, click, calibrate, serve, demo)
app.command(models)


def main() -> None:
    run(app)
