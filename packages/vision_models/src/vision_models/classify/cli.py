"""The verbs of ``vision-models classify``; no logic."""

from core_runtime.cli import add, application
from vision_models.classify.commands.compare import compare
from vision_models.classify.commands.demo import demo
from vision_models.classify.commands.evaluate import evaluate
from vision_models.classify.commands.inspect import inspect
from vision_models.classify.commands.models import models
from vision_models.classify.commands.predict import predict
from vision_models.classify.commands.profile import profile
from vision_models.classify.commands.sample import sample
from vision_models.classify.commands.train import train

app = application("classify", "What is in a picture: the papers' backbones and timm's, trained and compared.")
add(app, sample, inspect, train, evaluate, predict, compare, profile, demo)
app.command(models)
