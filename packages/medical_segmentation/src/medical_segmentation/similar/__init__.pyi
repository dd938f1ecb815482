from .commands.evaluate import evaluate as evaluate
from .commands.find import find as find
from .commands.index import index as index
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.embedding import EmbeddingConfig as EmbeddingConfig
from .model.embedding import EmbeddingNet as EmbeddingNet
from .model.folder import load_model as load_model
