from .commands.detect import detect as detect
from .commands.evaluate import evaluate as evaluate
from .commands.forecast import forecast as forecast
from .commands.train import train as train
from .model.folder import load_model as load_model
from .recordings.opening import open_recording as open_recording
from .recordings.prepared import Prepared as Prepared
from .recordings.settings import Settings as Settings
