from .cohort.study import load_study as load_study
from .commands.evaluate import evaluate as evaluate
from .commands.predict import predict as predict
from .commands.train import train as train
from .metrics.multimatch import multimatch as multimatch
from .metrics.sequences import sequence_score as sequence_score
from .model.folder import load_model as load_model
from .scanpaths.opening import read_scanpaths as read_scanpaths
