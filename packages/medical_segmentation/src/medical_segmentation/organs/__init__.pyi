from .commands.compare import compare as compare
from .commands.evaluate import evaluate as evaluate
from .commands.inspect import inspect as inspect
from .commands.predict import predict as predict
from .commands.train import train as train
from .model.folder import load_model as load_model
from .model.guided import GuidedAttentionNet as GuidedAttentionNet
from .model.guided import GuidedConfig as GuidedConfig
