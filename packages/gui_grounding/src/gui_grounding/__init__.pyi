from .commands.evaluate import evaluate as evaluate
from .commands.predict import predict as predict
from .commands.train import train as train
from .coordinates import View as View
from .items.reading import read_items as read_items
from .model.folder import load_model as load_model
from .model.inference import Grounder as Grounder
from .model.labels import multi_patch_labels as multi_patch_labels
