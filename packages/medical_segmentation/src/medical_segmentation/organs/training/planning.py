"""What the training volumes say about the input: spacing, axis of the slices, window of intensities, size of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from core_runtime.errors import UserError, counted, few
from medical_segmentation.organs.cohort.dataset import Case, Dataset
from medical_segmentation.organs.model.preparation import AXES, Preparation, slice_order
from medical_segmentation.organs.model.sizes import NetworkOptions
from medical_segmentation.organs.training.data import PreparedCase
from medical_segmentation.organs.training.recipe import InputOptions
from medical_segmentation.volumes.geometry import Reorientation
from medical_segmentation.volumes.volume import ReadingOptions

NAMED_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def plan_preparation(
    dataset: Dataset,
    cases: Sequence[Case],
    network: NetworkOptions,
    options: InputOptions,
    reading: ReadingOptions = ReadingOptions(),
) -> tuple[Preparation, list[str]]:
    """The preparation that fits the training volumes, and the names of their channels.

    Raises:
        UserError: a volume cannot be read, or has another number of channels than the others.
    """
    spacings, shapes, samples, channels, modality = [], [], [], set(), ""
    for case in cases:
        volume = dataset.image(case, reading)
        turn = Reorientation.between(volume.geometry, AXES)
        spacings.append(turn.spacing(volume.geometry))
        shapes.append([volume.geometry.shape[axis] for axis in turn.order])
        channels.add(volume.channels)
        modality = modality or volume.modality
        flat = volume.array.reshape(-1)
        samples.append(flat[:: max(1, flat.size // 20000)].astype(np.float32))
    if len(channels) > 1:
        raise UserError(
            f"training volumes have {sorted(channels)} channels", "all need the same number; --channel 0 takes one"
        )
    names = list(dataset.channels) or [modality or "image"]
    count = channels.pop()
    if len(names) != count:
        names = [f"channel {number}" for number in range(count)]
    spacing = tuple(float(each) for each in (options.spacing or np.median(spacings, 0).round(4).tolist()))
    axis = NAMED_AXES.get(options.axis, int(np.argmax(np.median(spacings, 0))))
    if options.axis == "auto" and max(spacing or (1,)) < 1.2 * min(each for each in np.median(spacings, 0)):
        axis = 2  # no axis is thick: axial slices, as radiologists read them
    dims = 3 if network.form == "3d" else 2
    scheme, low, high = _intensity(options, names, modality, samples, count)
    draft = Preparation(
        scheme,
        low,
        high,
        (spacing[0], spacing[1], spacing[2]),
        axis,
        dims,
        network.slices if network.form == "2.5d" else 1,
    )
    grids = np.array([draft.grid(shape, own) for shape, own in zip(shapes, spacings, strict=True)])
    order = slice_order(axis if dims == 2 else 2)[:dims]
    return _with_window(draft, np.median(grids[:, order], 0).tolist(), options), names


def _intensity(
    options: InputOptions, names: Sequence[str], modality: str, samples: Sequence[np.ndarray], count: int
) -> tuple:
    scheme = options.intensity
    if scheme == "auto":
        # nnU-Net: the literal channel name CT switches on a window
        if options.window is not None or (count == 1 and "CT" in (names[0].upper(), modality)):
            scheme = "window"
        elif any(word in names[0].upper() for word in ("MR", "T1", "T2", "FLAIR")) or modality == "MR":
            scheme = "zscore"
        else:
            scheme = "range"
    if scheme != "window":
        return scheme, 0.0, 1.0
    if options.window is not None:
        return scheme, options.window[0], options.window[1]
    # of the body: air would take half of the window
    values = np.concatenate(samples)
    body = values[values > -200]
    low, high = np.percentile(body if body.size > 100 else values, [0.5, 99.5]).tolist()
    return scheme, round(low, 1), round(max(high, low + 1), 1)


def _with_window(draft: Preparation, sides: Sequence[float], options: InputOptions) -> Preparation:
    if options.patch is not None:
        if len(options.patch) != draft.dims:
            raise UserError(f"--patch {options.patch}: {draft.dims} sides are needed", "--patch 192,192")
        return replace(draft, window=options.patch)
    limit = 256 if draft.dims == 2 else 96
    window = tuple(min(limit, max(16, int(-(-side // 16)) * 16)) for side in sides)
    return replace(draft, window=window)


def named_classes(
    classes: Mapping[int, str], train: Sequence[PreparedCase], val: Sequence[PreparedCase]
) -> tuple[tuple[str, ...], list[str]]:
    """The classes by number, and notes on those that a part of the fold lacks.

    Raises:
        UserError: no training case holds a class, or they hold background alone.
    """
    present = {int(number) for case in train for number in case.places}
    held = {int(number) for case in val for number in case.places}
    if not present:
        raise UserError(
            "the training cases hold background alone",
            "look at the label files: 'medical-segmentation organs inspect FOLDER'",
        )
    names = dict(classes) or {number: f"label {number}" for number in range(max(present | held) + 1)}
    names[0] = names.get(0, "background")
    absent = [name for number, name in names.items() if number and number not in present]
    if absent:
        raise UserError(
            f"no training case holds {few(absent)}",
            "choose another --fold or --seed, or renumber the labels without a gap",
        )
    notes = [
        f"no held-out case holds {name}: nothing is known of its quality"
        for number, name in names.items()
        if number and number not in held
    ]
    for part, cases in (("training", train), ("held-out", val)):
        empty = [case.case.name for case in cases if not any(case.places)]
        if empty:
            notes.append(f"{counted(len(empty), f'{part} case')} of background alone: {few(empty)}")
    return tuple(names[number] for number in range(len(names))), notes
