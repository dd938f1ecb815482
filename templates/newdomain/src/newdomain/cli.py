"""The verbs of ``newdomain``; no logic."""

from core_runtime.cli import add, application, run
from newdomain.commands.demo import demo
from newdomain.commands.evaluate import evaluate
from newdomain.commands.inspect import inspect
from newdomain.commands.models import models
from newdomain.commands.predict import predict
from newdomain.commands.sample import sample
from newdomain.commands.train import train

app = application("newdomain", "NEWQUESTION")
add(app, sample, inspect, train, evaluate, predict, demo)
app.command(models)


def main() -> None:
    run(app)
