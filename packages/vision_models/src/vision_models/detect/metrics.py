"""Average precision of boxes by pycocotools, the field's own judge, with intervals over pictures."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core_runtime.boxes import BoxedImage, BoxSet, coco_of
from core_runtime.errors import counted
from core_runtime.statistics import Interval, intervals, resampled
from vision_models.detect.results import FoundBox

_AT_HALF, _AT_THREE_QUARTERS = 0, 5  # places of 0.5 and 0.75 among COCO's ten thresholds


@dataclass(frozen=True)
class Metrics:
    """Measures of found boxes against drawn ones, from 0 to 1.

    Attributes:
        ap: average precision, mean over IoU from 0.5 to 0.95 and over classes; ap50, ap75 at one IoU.
        recall: largest recall at up to `most` boxes per picture, mean over IoU and classes.
        by_class: ap50 of each class that has boxes.
        boxes, found: drawn boxes, and found ones.
        without: pictures in which nothing was found.
        intervals: 95 %, over pictures.
    """

    images: int
    boxes: int
    found: int
    without: int
    ap: float
    ap50: float
    ap75: float
    recall: float
    by_class: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Judge:
    """Found boxes matched with drawn ones once, and measured on any selection of the pictures.

    Args:
        images: the pictures with their boxes.
        found: the boxes found in each.
        classes: names.
        most: boxes of a picture that count, the surest first.
    """

    def __init__(
        self, images: Sequence[BoxedImage], found: Sequence[Sequence[FoundBox]], classes: Sequence[str], most: int = 100
    ) -> None:
        self.images, self.found, self.classes = images, found, classes
        truth = BoxSet(images[0].file, "COCO", tuple(classes), tuple(images), category_ids=tuple(range(len(classes))))
        described = coco_of(truth)
        results = []
        for number, boxes in enumerate(found, 1):
            for each in boxes:
                left, top, right, bottom = each.box
                results.append(
                    {
                        "id": len(results) + 1,
                        "image_id": number,
                        "category_id": each.label,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "score": each.score,
                    }
                )
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every step
            self.judge = COCOeval(_coco(described), _coco(described | {"annotations": results}), "bbox")
            parameters = self.judge.params
            parameters.imgIds = list(range(1, len(images) + 1))
            # classes without a drawn box have no precision: leaving them out spares most of the work where few of many occur
            self.present = sorted({label for image in images for label in image.labels})
            parameters.catIds = self.present
            parameters.maxDets = [most]
            parameters.areaRng, parameters.areaRngLbl = [[0, 1e10]], ["all"]
            self.judge.evaluate()
        # (classes, pictures): what pycocotools found out of each picture, for any selection to be summed
        matched = np.empty(len(self.judge.evalImgs), object)
        matched[:] = self.judge.evalImgs
        self.matched = matched.reshape(len(self.present), len(images))

    def measures(self, selection: NDArray[np.int64]) -> dict[str, float]:
        """ap, ap50, ap75 and recall of these pictures, repeats included; as many as there are."""
        precision, recall = self._accumulated(selection)
        return {
            "ap": _mean(precision),
            "ap50": _mean(precision[_AT_HALF]),
            "ap75": _mean(precision[_AT_THREE_QUARTERS]),
            "recall": _mean(recall),
        }

    def _accumulated(self, selection: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Precision (thresholds, recalls, classes) and recall (thresholds, classes); −1 where a class has no boxes."""
        self.judge.evalImgs = self.matched[:, selection].ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            self.judge.accumulate()
        return self.judge.eval["precision"][:, :, :, 0, 0], self.judge.eval["recall"][:, :, 0, 0]

    def metrics(self, resamples: int = 200, seed: int = 0) -> Metrics:
        """All measures, with intervals from resampled pictures."""
        everything = np.arange(len(self.images))
        values = self.measures(everything)
        precision, _ = self._accumulated(everything)
        by_class = {}
        for place, number in enumerate(self.present):
            value = _mean(precision[_AT_HALF, :, place])
            if not math.isnan(value):  # a class whose boxes are all crowds has none
                by_class[self.classes[number]] = value
        found = intervals(self.measures, range(len(self.images)), resamples=resamples, seed=seed)
        return Metrics(
            images=len(self.images),
            boxes=sum(len(image.boxes) for image in self.images),
            found=sum(map(len, self.found)),
            without=sum(not boxes for boxes in self.found),
            by_class=by_class,
            intervals={name: (interval.low, interval.high) for name, interval in found.items()},
            **values,
        )


def differences(first: Judge, second: Judge, resamples: int = 300, seed: int = 0) -> dict[str, tuple[float, Interval]]:
    """Measures of the first minus those of the second on the same pictures, with intervals from the same resampled pictures."""
    everything = np.arange(len(first.images))
    one, other = first.measures(everything), second.measures(everything)
    samples: dict[str, list[float]] = {name: [] for name in one}
    for selection in resampled(range(len(first.images)), resamples, seed):
        left, right = first.measures(selection), second.measures(selection)
        for name, values in samples.items():
            difference = left[name] - right[name]
            if not math.isnan(difference):
                values.append(difference)
    result = {}
    for name, values in samples.items():
        low, high = (float(end) for end in np.quantile(values, [0.025, 0.975]))
        result[name] = (one[name] - other[name], Interval(low, high, 0.95, len(first.images)))
    return result


def measure_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The measures of `Metrics.plain`, for the terminal."""
    lines = [
        f"Pictures: {metrics['images']:,} with {counted(metrics['boxes'], 'box', 'boxes')}; {metrics['found']:,} found"
    ]
    if metrics["without"]:
        lines.append(f"  nothing found in {counted(metrics['without'], 'picture')}")
    names = {"ap": "AP (IoU 0.5 to 0.95)", "ap50": "AP50", "ap75": "AP75", "recall": "recall"}
    for key, name in names.items():
        low, high = metrics["intervals"][key]
        lines.append(f"  {name:22} {metrics[key]:.4f}  (95 % interval {low:.4f} to {high:.4f})")
    return lines


def _coco(described: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dict(described)  # pyright: ignore[reportAttributeAccessIssue]
    coco.createIndex()
    return coco


def _mean(values: NDArray[Any]) -> float:
    """The mean of what is defined; NaN without any."""
    defined = values[values > -1]
    if not defined.size:
        return math.nan
    return float(defined.mean())
