"""The verbs of ``medical-segmentation similar``; no logic."""

from core_runtime.cli import add, application
from medical_segmentation.similar.commands.demo import demo
from medical_segmentation.similar.commands.evaluate import evaluate
from medical_segmentation.similar.commands.find import find
from medical_segmentation.similar.commands.index import index
from medical_segmentation.similar.commands.inspect import inspect
from medical_segmentation.similar.commands.models import models
from medical_segmentation.similar.commands.predict import predict
from medical_segmentation.similar.commands.sample import sample
from medical_segmentation.similar.commands.train import train

app = application("similar", "Similar medical images, and where the model looks (dynamic subspace learners).")
add(app, sample, inspect, train, evaluate, predict, index, find, demo)
app.command(models)
