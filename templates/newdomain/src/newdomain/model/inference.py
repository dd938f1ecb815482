"""A model with its pre- and post-processing: signals in, predictions out."""

import torch

from newdomain.model.burst import BurstClassifier
from newdomain.results import Prediction
from newdomain.signals.reading import WINDOW, Signal


@torch.inference_mode()
def predict_signal(model: BurstClassifier, signal: Signal) -> Prediction:
    """How likely a signal holds a burst, and where the model looks."""
    device = next(model.parameters()).device
    windows = torch.from_numpy(signal.windows())[None].to(device)
    weights = model.window_scores(windows)[0].cpu()
    begin = float(signal.seconds[int(weights.argmax()) * WINDOW])
    return Prediction(signal.name, model(windows).sigmoid().item(), begin, [round(w, 5) for w in weights.tolist()])
