"""Model + file → a result → a file and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from core_attention.checkpoints.folders import load_model
from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from newdomain.figures import draw_signal
from newdomain.model import BurstClassifier
from newdomain.signals import WINDOW, Signal, read_signal


@dataclass(frozen=True)
class Prediction:
    """Probability of a burst, and the attention weight of every window."""

    signal: str
    probability: float
    seconds: float  # where the window with the highest weight begins
    weights: Sequence[float]


class Predictor:
    """A model with its pre- and post-processing: signals in, predictions out."""

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        try:
            self.model = load_model(folder, BurstClassifier).to(device).eval()
        except (OSError, ValueError) as error:
            raise UserError(str(error), "'newdomain train' makes a model folder") from None
        self.device = device

    @torch.inference_mode()
    def __call__(self, signal: Signal) -> Prediction:
        windows = torch.from_numpy(signal.windows())[None].to(self.device)
        weights = self.model.window_scores(windows)[0].cpu()
        at = float(signal.seconds[int(weights.argmax()) * WINDOW])
        return Prediction(
            signal.name, self.model(windows).sigmoid().item(), at, [round(w, 5) for w in weights.tolist()]
        )


def predict_file(predictor: Predictor, path: Path, out: Path) -> Prediction:
    """Writes ``NAME.json`` and ``NAME.png`` to `out`."""
    signal = read_signal(path)
    prediction = predictor(signal)
    with writing(out / f"{signal.name}.png") as picture:
        draw_signal(signal, prediction.weights).savefig(picture, format="png", dpi=110)
    write_text(out / f"{signal.name}.json", json.dumps(asdict(prediction)))
    return prediction
