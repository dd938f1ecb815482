"""The verbs of ``medical-segmentation organs``; no logic."""

from core_runtime.cli import add, application
from medical_segmentation.organs.commands.compare import compare
from medical_segmentation.organs.commands.demo import demo
from medical_segmentation.organs.commands.evaluate import evaluate
from medical_segmentation.organs.commands.inspect import inspect
from medical_segmentation.organs.commands.models import models
from medical_segmentation.organs.commands.predict import predict
from medical_segmentation.organs.commands.sample import sample
from medical_segmentation.organs.commands.train import train

app = application("organs", "Organs in CT and MR volumes: guided attention, masks in the geometry of their images.")
add(app, sample, inspect, train, evaluate, predict, compare, demo)
app.command(models)
