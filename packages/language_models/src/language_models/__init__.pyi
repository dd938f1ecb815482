from .commands.arena import arena as arena
from .commands.generate import generate as generate
from .commands.train import train as train
from .model.folder import load_model as load_model
from .model.kinds import KINDS as KINDS
from .model.registration import MODELS as MODELS
