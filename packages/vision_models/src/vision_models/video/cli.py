"""The verbs of ``vision-models video``; no logic."""

from core_runtime.cli import add, application
from vision_models.video.commands.contrast import contrast, predict
from vision_models.video.commands.demo import demo
from vision_models.video.commands.evaluate import evaluate
from vision_models.video.commands.inspect import inspect
from vision_models.video.commands.models import models
from vision_models.video.commands.profile import profile
from vision_models.video.commands.sample import sample
from vision_models.video.commands.train import train

app = application("video", "Attention that lets long video fit: VMoBA in diffusers' Wan models.")
add(app, sample, inspect, profile, contrast, train, evaluate, predict, demo)
app.command(models)
