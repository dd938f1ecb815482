"""``medical-segmentation organs inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.findings import Findings, FolderFindings
from medical_segmentation.volumes.opening import case_name, find_volumes, open_volume, without_identifiers
from medical_segmentation.volumes.volume import ReadingOptions, Volume

if TYPE_CHECKING:
    from medical_segmentation.organs.model.preparation import Preparation
    from medical_segmentation.volumes.geometry import Geometry

CLASSES_FORECAST = 25  # classes that the forecast assumes where no labels say
LABELS = 30  # whole values, 0 among them, up to which a volume is taken for labels
SHOWN = 12  # volumes of a folder that are reported one by one


@dataclass(frozen=True)
class Load:
    """What a forecast is for.

    Attributes:
        classes: of the network.
        preparation: of its input; None: windows of 96³.
    """

    classes: int
    preparation: Preparation | None


def inspect(
    path: Path,
    /,
    *,
    reading: ReadingOptions = ReadingOptions(),
    model: str | None = None,
    report: Path | None = None,
) -> Outcome:
    """Reports geometry, intensities, labels and problems of volumes, what to do about them, and how much memory a prediction needs.

    Example: medical-segmentation organs inspect ct.nii.gz --report ct.html

    Args:
        path: a volume (NIfTI, MHA, NRRD, a DICOM series), a folder of volumes, or a labelled data set.
        model: model folder that the memory forecast is for; else one of 25 classes in windows of 96³.
        report: also write a page with a montage.
    """
    load = Load(CLASSES_FORECAST, None)
    if model is not None:
        from medical_segmentation.organs.model.folder import load_model

        loaded = load_model(model)
        load = Load(len(loaded.classes), loaded.preparation)
    outcome = examine(path, reading, load, pictures=report is not None)
    if report is not None:
        first = outcome.findings[0] if isinstance(outcome, FolderFindings) else outcome
        first.report().write(report)
    return outcome


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    outcome = examine(path, ReadingOptions(), Load(CLASSES_FORECAST, None), pictures=True)
    return outcome.findings[0] if isinstance(outcome, FolderFindings) else outcome


def examine(path: Path, reading: ReadingOptions, load: Load, *, pictures: bool) -> Findings | FolderFindings:
    """Examines a path.

    Raises:
        UserError: nothing is there that can be read.
    """
    if path.is_dir():
        from medical_segmentation.organs.cohort.dataset import with_mapping
        from medical_segmentation.organs.cohort.layouts import find_dataset

        try:
            dataset = with_mapping(find_dataset(path), reading)
        except UserError as error:
            if "no data set that is known" not in error.message:
                raise
        else:
            from medical_segmentation.organs.reports.datasets import examine_dataset

            return examine_dataset(dataset, reading, pictures=pictures)
    volumes = find_volumes(path)
    if len(volumes) == 1:
        return examine_volume(volumes[0], reading, load, pictures=pictures)
    findings, unreadable = [], {}
    for volume in volumes[:SHOWN]:
        try:
            findings.append(examine_volume(volume, reading, load, pictures=pictures and not findings))
        except UserError as error:
            name = case_name(volume, path)
            reason = f"{error.message} ({error.hint})" if error.hint else error.message
            unreadable[name] = without_identifiers(reason, volume, name)
    if not findings:
        raise UserError(f"{path}: none of {len(unreadable)} volumes can be read; {next(iter(unreadable.values()))}")
    return FolderFindings(findings=findings, unreadable=unreadable)


def examine_volume(path: Path, reading: ReadingOptions, load: Load, *, pictures: bool) -> Findings:
    """Geometry, intensities, problems and the forecast of one volume."""
    import numpy as np

    from medical_segmentation.volumes.geometry import in_words

    volume = open_volume(path, reading)
    geometry, array = volume.geometry, volume.array
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    details: dict[str, Any] = {"geometry": in_words(geometry)}
    if geometry.obliqueness > 0.5:
        details["oblique"] = f"{geometry.obliqueness:.1f}° off the axes of the body"
    if volume.channels > 1:
        details["channels"] = volume.channels
    details["type"] = str(array.dtype)
    warnings = list(volume.warnings)
    usable = True
    if finite.size:
        low, middle, high = (
            float(each)
            for each in np.percentile(
                finite[:: max(1, finite.size // 10**6)] if finite.ndim == 1 else finite, [0, 50, 100]
            )
        )
        details["values"] = f"{low:.6g} to {high:.6g}, median {middle:.6g}"
        if low == high:
            usable = False
            warnings.append("every voxel has the same value: nothing can be found in it")
    if "not finite" in volume.facts:
        usable = False
        warnings.append(f"{volume.facts['not finite']}: --fill 0 (or -1024 for CT) gives them a value")
    labels = _label_counts(array)
    is_segmentation = labels is not None and 1 < len(labels) <= LABELS and "0" in labels
    if labels is not None:
        details["labels"] = labels
    details |= {name: value for name, value in volume.facts.items() if name not in ("not finite",)}
    forecast, in_gigabytes = forecast_memory(geometry, load)
    if not is_segmentation:
        details["memory forecast"] = in_gigabytes
    drawn = []
    if pictures:
        from medical_segmentation.organs.reports.figures import montage

        drawn.append(
            (
                montage(volume),
                "Slices through the volume, the patient's right on the left; and how its values are distributed.",
            )
        )
    name = case_name(path, path)
    next_commands = _next(path, volume, reading, is_segmentation=is_segmentation, usable=usable)
    return Findings(
        title=name if name.startswith("case-") else path.name,
        kind=volume.kind + (f" ({volume.modality})" if volume.modality else ""),
        summary=in_words(geometry),
        usable=usable,
        details=details,
        data={"geometry_exact": geometry.plain(), "forecast_gb": forecast},
        warnings=[without_identifiers(warning, path, name) for warning in warnings],
        next_commands=[without_identifiers(command, path, "SERIES") for command in next_commands],
        pictures=drawn,
    )


def forecast_memory(geometry: Geometry, load: Load) -> tuple[dict[str, float], str]:
    """What a prediction of a volume of this geometry holds, in gigabytes, and in words."""
    from medical_segmentation.organs.model.inference import memory_forecast
    from medical_segmentation.organs.model.preparation import AXES, Preparation
    from medical_segmentation.volumes.geometry import Reorientation

    turn = Reorientation.between(geometry, AXES)
    shape = [geometry.shape[axis] for axis in turn.order]
    window = tuple(min(96, -(-side // 16) * 16) for side in shape)
    preparation = load.preparation or Preparation(dims=3, window=window)
    grid = preparation.grid(shape, turn.spacing(geometry))
    forecast = memory_forecast(shape, load.classes, preparation, grid)
    held = forecast["input"] + forecast["scores"] + forecast["answer"]
    pieces = "slices" if preparation.dims == 2 else f"windows of {' × '.join(map(str, preparation.window))}"
    words = (
        f"{held:.2g} GB beyond the network for {load.classes} classes in {pieces}, "
        f"{forecast['if every score were kept']:.2g} GB where every score is kept"
    )
    return forecast, words


def _next(path: Path, volume: Volume, reading: ReadingOptions, *, is_segmentation: bool, usable: bool) -> list[str]:
    """The command that goes on from here; none for what a network cannot take."""
    command = f"medical-segmentation organs predict {quote(str(path))} --model run/model"
    if reading.series is not None:
        command += f" --series {quote(reading.series)}"
    if reading.channel is not None:
        command += f" --channel {reading.channel}"
    if is_segmentation:
        return ["put labels into labels/ and their images into images/: medical-segmentation organs train FOLDER"]
    if "not finite" in volume.facts:
        return [f"{command} --fill {-1024 if volume.modality == 'CT' else 0}"]
    if not usable:
        return []
    return [command + (" --channel 0" if volume.channels > 1 else "")]


def _label_counts(array: Any) -> dict[str, int] | None:
    """Voxels of each value, where the values look like labels: few, whole, none below 0."""
    import numpy as np

    flat = array.reshape(-1)[:: max(1, array.size // 200_000)]
    if flat.dtype.kind == "f" and not bool((np.round(flat) == flat).all()):
        return None
    if len(np.unique(flat)) > 30 or float(flat.min()) < 0:
        return None
    values, counts = np.unique(array, return_counts=True)
    if len(values) > 60:
        return None
    return {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
