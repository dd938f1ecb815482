"""Results as files: CLAM's tables, and JSON without NaN."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core_runtime.folders import write_text


def json_text(value: Any) -> str:
    """JSON with null for NaN, paths as text."""
    text = json.dumps(value, default=str)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1)


def write_fold_table(
    path: Path, slides: Sequence[str], labels: Sequence[int], probabilities: Float[Tensor, "slides classes"]
) -> None:
    """CLAM's ``fold_{i}.csv``: slide_id, Y, Y_hat, p_0, p_1, …"""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["slide_id", "Y", "Y_hat", *(f"p_{c}" for c in range(probabilities.shape[1]))])
    for slide, label, p in zip(slides, labels, probabilities.tolist(), strict=True):
        writer.writerow([slide, label, max(range(len(p)), key=p.__getitem__), *p])
    write_text(path, out.getvalue())


def write_summary(path: Path, folds: Sequence[Mapping[str, float]]) -> None:
    """CLAM's ``summary.csv``: folds, test_auc, val_auc, test_acc, val_acc; NaN is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ("test_auc", "val_auc", "test_acc", "val_acc")
    writer.writerow(["", "folds", *columns])
    for i, fold in enumerate(folds):
        values = [fold.get(c, math.nan) for c in columns]
        writer.writerow([i, i, *("" if math.isnan(v) else v for v in values)])
    write_text(path, out.getvalue())
