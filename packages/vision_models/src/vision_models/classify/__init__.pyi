from .commands.compare import compare as compare
from .commands.evaluate import evaluate as evaluate
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.folder import load_model as load_model
