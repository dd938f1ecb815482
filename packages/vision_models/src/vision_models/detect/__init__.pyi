from .commands.ab import ab as ab
from .commands.evaluate import evaluate as evaluate
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.folder import load_model as load_model
from .scenes.opening import open_boxes as open_boxes
