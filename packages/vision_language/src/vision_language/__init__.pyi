from .commands.ground import ground as ground
from .commands.train import train as train
from .model.folder import load_grounder as load_grounder
