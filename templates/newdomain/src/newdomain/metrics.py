"""The measures of this field."""

from torch import Tensor
from torchmetrics.functional.classification import binary_accuracy, binary_auroc


def measure(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy at 0.5 and area under the ROC curve, of probabilities and labels of shape (signals,)."""
    return {
        "accuracy": binary_accuracy(probabilities, labels).item(),
        "auroc": binary_auroc(probabilities, labels).item(),
        "signals": float(len(labels)),
    }
