from .commands.predict import predict as predict
from .commands.train import train as train
from .commands.vectorize import vectorize as vectorize
from .sheets.sheet import Sheet as Sheet
from .sheets.vector_files import read_layer as read_layer
