"""The verbs of ``remote-sensing maps``; no logic."""

from core_runtime.cli import add, application
from remote_sensing.maps.commands.demo import demo
from remote_sensing.maps.commands.evaluate import evaluate
from remote_sensing.maps.commands.inspect import inspect
from remote_sensing.maps.commands.models import models
from remote_sensing.maps.commands.predict import predict
from remote_sensing.maps.commands.prompt import prompt
from remote_sensing.maps.commands.sample import sample
from remote_sensing.maps.commands.train import train
from remote_sensing.maps.commands.vectorize import vectorize

app = application("maps", "Vector features from historical map sheets (MapSAM).")
add(app, sample, inspect, train, evaluate, predict, vectorize, prompt, demo)
app.command(models)
