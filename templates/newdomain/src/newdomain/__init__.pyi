from .commands.predict import predict as predict
from .commands.train import train as train
from .model.folder import load_model as load_model
from .signals.reading import read_signal as read_signal
