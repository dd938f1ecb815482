from .annotations import read_annotations as read_annotations
from .commands.compare import compare as compare
from .commands.evaluate import evaluate as evaluate
from .commands.extract import extract as extract
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.bmn import BMN as BMN
from .model.folder import load_model as load_model
