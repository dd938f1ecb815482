"""What `inspect` says of a labelled data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from shlex import quote
from typing import Any

import numpy as np

from core_runtime.errors import UserError, counted, few
from core_runtime.findings import Findings
from core_runtime.terminal import track
from medical_segmentation.organs.cohort.dataset import Dataset, case_digest, without_names
from medical_segmentation.organs.reports.figures import montage
from medical_segmentation.volumes.opening import without_identifiers
from medical_segmentation.volumes.volume import ReadingOptions


def examine_dataset(dataset: Dataset, reading: ReadingOptions, *, pictures: bool) -> Findings:
    """Cases, grids, labels and problems of a data set; every case is opened."""
    dataset = replace(dataset, cases=without_names(dataset.cases))
    problems: list[str] = list(dataset.notes)
    voxels: Counter[int] = Counter()
    holding: Counter[int] = Counter()
    grids, axes, drawn, empty = [], Counter(), [], []
    for case in track(dataset.labelled, "Reading volumes", len(dataset.labelled)):
        try:
            volume = dataset.image(case, reading)
            labels = dataset.labels(case, volume)
        except UserError as error:
            reason = error.message + (f" ({error.hint})" if error.hint else "")
            problems.append(f"{case.name}: {without_identifiers(reason, case.images[0], case.name)}")
            continue
        for warning in volume.warnings:
            problems.append(f"{case.name}: {warning}")
        values, counts = np.unique(labels, return_counts=True)
        voxels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        holding.update(values.tolist())
        if not labels.any():
            empty.append(case.name)
        grids.append(volume.geometry)
        axes[volume.geometry.axes] += 1
        if pictures and not drawn:
            drawn.append((montage(volume, labels), f"{case.name} and its labels"))
    copies: dict[str, list[str]] = {}
    for case in dataset.labelled:
        copies.setdefault(case_digest(case), []).append(case.name)
    for names in copies.values():
        if len(names) > 1:
            problems.append(f"{', '.join(names)} have the same image")
    if empty:
        problems.append(
            f"labels of background alone: {counted(len(empty), 'case')} ({few(empty)}); nothing is learned there but background"
        )
    classes = {number: dataset.classes.get(number, f"label {number}") for number in sorted({*voxels, *dataset.classes})}
    for number, name in classes.items():
        if number and 0 < holding[number] <= max(1, len(dataset.labelled) // 10):
            problems.append(f"{name} is in {counted(holding[number], 'case')} only: it may be missing from a fold")
        if number and not holding[number]:
            problems.append(f"{name} is named and occurs in no case")
    details: dict[str, Any] = {
        "layout": dataset.layout,
        "cases": f"{len(dataset.labelled)} labelled, {len(dataset.cases) - len(dataset.labelled)} without labels",
        "patients": len({case.patient for case in dataset.labelled}),
        "channels": ", ".join(dataset.channels) or "not named",
        "axes": dict(axes),
    }
    if grids:
        spacings = np.array([grid.spacing for grid in grids])
        details["spacing"] = (
            " × ".join(f"{low:.3g}-{high:.3g}" for low, high in zip(spacings.min(0), spacings.max(0), strict=True))
            + " mm"
        )
        shapes = np.array([grid.shape for grid in grids])
        details["voxels"] = " × ".join(f"{low}-{high}" for low, high in zip(shapes.min(0), shapes.max(0), strict=True))
    total = max(1, sum(voxels.values()))
    details["labels"] = {
        name: f"{voxels[number] / total:.2%} of voxels in {holding[number]} cases" for number, name in classes.items()
    }
    if dataset.regions:
        details["judged regions"] = {
            name: " + ".join(classes[number] for number in numbers) for name, numbers in dataset.regions.items()
        }
    if dataset.folds:
        details["folds"] = f"{len(dataset.folds)} in splits_final.json"
    return Findings(
        title=dataset.root.name,
        kind="labelled volumes",
        summary=f"{len(dataset.labelled)} labelled cases ({dataset.layout})",
        usable=bool(grids),
        details=details,
        warnings=_shown(problems),
        next_commands=[f"medical-segmentation organs train {quote(str(dataset.root))} --out run"],
        pictures=drawn,
    )


def _shown(problems: list[str], most: int = 20) -> list[str]:
    """The first problems, and how many more there are."""
    if len(problems) <= most:
        return problems
    return [*problems[:most], f"and {len(problems) - most} more"]
