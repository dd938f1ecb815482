"""The verbs of ``pathology-mil``; no logic."""

from core_runtime.cli import add, application, run
from pathology_mil.commands.demo import demo
from pathology_mil.commands.encode import encode
from pathology_mil.commands.evaluate import evaluate
from pathology_mil.commands.heatmap import heatmap
from pathology_mil.commands.inspect import inspect
from pathology_mil.commands.models import models
from pathology_mil.commands.predict import predict
from pathology_mil.commands.sample import sample
from pathology_mil.commands.sweep import sweep
from pathology_mil.commands.tile import tile
from pathology_mil.commands.train import train
from pathology_mil.training.recipe import PUBLISHED_CONFIG

app = application("pathology-mil", "Whole slides to tiles, features, a slide label and a heat map (ACMIL).")
add(app, sample, inspect, tile, encode, heatmap)
add(app, train, published=PUBLISHED_CONFIG)
add(app, sweep, evaluate, predict, demo)
app.command(models)


def main() -> None:
    run(app)
