"""The verbs of ``language-models``; no logic."""

from core_runtime.cli import add, application, run
from language_models.commands.arena import arena
from language_models.commands.compare import compare
from language_models.commands.demo import demo
from language_models.commands.evaluate import evaluate
from language_models.commands.generate import generate
from language_models.commands.inspect import inspect
from language_models.commands.models import models
from language_models.commands.predict import predict
from language_models.commands.sample import sample
from language_models.commands.train import train

app = application("language-models", "How does this text go on?")
add(app, sample, inspect, train, evaluate, generate, predict, arena, compare, demo)
app.command(models)


def main() -> None:
    run(app)
