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
    # Python writes NaN and Infinity, which JSON does not have: read back, they become None
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1)


def write_fold_table(
    path: Path, slides: Sequence[str], labels: Sequence[int], probabilities: Float[Tensor, "slides classes"]
) -> None:
    """CLAM's ``fold_{i}.csv``: slide_id, Y, Y_hat, p_0, p_1, …"""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [f"p_{number}" for number in range(probabilities.shape[1])]
    writer.writerow(["slide_id", "Y", "Y_hat", *columns])
    for slide, label, row in zip(slides, labels, probabilities.tolist(), strict=True):
        predicted = max(range(len(row)), key=row.__getitem__)
        writer.writerow([slide, label, predicted, *row])
    write_text(path, out.getvalue())


def write_summary(path: Path, folds: Sequence[Mapping[str, float]]) -> None:
    """CLAM's ``summary.csv``: folds, test_auc, val_auc, test_acc, val_acc; NaN is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ("test_auc", "val_auc", "test_acc", "val_acc")
    writer.writerow(["", "folds", *columns])
    for i, fold in enumerate(folds):
        cells: list[Any] = [i, i]
        for column in columns:
            value = fold.get(column, math.nan)
            cells.append("" if math.isnan(value) else value)
        writer.writerow(cells)
    write_text(path, out.getvalue())
