"""The verbs of ``vision-models detect``; no logic."""

from core_runtime.cli import add, application
from vision_models.detect.commands.ab import ab
from vision_models.detect.commands.convert import convert
from vision_models.detect.commands.demo import demo
from vision_models.detect.commands.evaluate import evaluate
from vision_models.detect.commands.inspect import inspect
from vision_models.detect.commands.models import models
from vision_models.detect.commands.predict import predict
from vision_models.detect.commands.sample import sample
from vision_models.detect.commands.train import train

app = application("detect", "Where things are, also in the dark: FeatEnHancer in front of any detector.")
add(app, sample, inspect, convert, train, evaluate, predict, ab, demo)
app.command(models)
