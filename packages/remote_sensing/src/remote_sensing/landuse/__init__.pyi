from .commands.evaluate import evaluate as evaluate
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.folder import load_model as load_model
from .scenes.layouts import find_tiles as find_tiles
from .scenes.scene import Scene as Scene
