"""The verbs of ``remote-sensing landuse``; no logic."""

from core_runtime.cli import add, application
from remote_sensing.landuse.commands.demo import demo
from remote_sensing.landuse.commands.evaluate import evaluate
from remote_sensing.landuse.commands.inspect import inspect
from remote_sensing.landuse.commands.models import models
from remote_sensing.landuse.commands.predict import predict
from remote_sensing.landuse.commands.sample import sample
from remote_sensing.landuse.commands.train import train

app = application("landuse", "Land use of Sentinel-2 tiles and scenes (EuroSAT networks with balanced attention).")
add(app, sample, inspect, train, evaluate, predict, demo)
app.command(models)
