"""The verbs of ``vision-models actions``; no logic."""

from core_runtime.cli import add, application
from vision_models.actions.commands.compare import compare
from vision_models.actions.commands.demo import demo
from vision_models.actions.commands.evaluate import evaluate
from vision_models.actions.commands.extract import extract
from vision_models.actions.commands.inspect import inspect
from vision_models.actions.commands.models import models
from vision_models.actions.commands.predict import predict
from vision_models.actions.commands.sample import sample
from vision_models.actions.commands.train import train

app = application("actions", "What happens in a video, and when: BMN and BMN with class semantics.")
add(app, sample, inspect, extract, train, evaluate, predict, compare, demo)
app.command(models)
