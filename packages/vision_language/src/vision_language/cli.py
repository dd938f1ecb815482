"""The verbs of ``vision-language``; no logic."""

from core_runtime.cli import add, application, run
from vision_language.commands.answer import answer
from vision_language.commands.compare import compare
from vision_language.commands.demo import demo
from vision_language.commands.evaluate import evaluate
from vision_language.commands.find import find
from vision_language.commands.ground import ground
from vision_language.commands.index import index
from vision_language.commands.inspect import inspect
from vision_language.commands.models import models
from vision_language.commands.probe import probe
from vision_language.commands.sample import sample
from vision_language.commands.train import train

app = application("vision-language", "What in the picture does the sentence mean?")
add(app, sample, inspect, train, evaluate, compare, ground, answer, probe, index, find, demo)
add(app, ground, name="predict")
app.command(models)


def main() -> None:
    run(app)
