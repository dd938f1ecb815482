"""``medical-segmentation organs predict``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, failures, read_results
from core_runtime.errors import UserError, counted
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from core_runtime.terminal import warn
from medical_segmentation.organs.model.published import ADVICE
from medical_segmentation.organs.options import InferenceOptions, OutputOptions
from medical_segmentation.volumes.opening import case_name, find_volumes, without_identifiers
from medical_segmentation.volumes.volume import ReadingOptions

SIMILAR = 5  # images that are shown beside a mask


@dataclass(frozen=True)
class Work:
    """One case to predict."""

    images: tuple[Path, ...]
    name: str
    model: str
    version: str  # of the model folders: one that was trained again is loaded again
    device: str
    settings: InferenceOptions
    output: OutputOptions
    reading: ReadingOptions
    viewer: bool


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """Masks of every case, each in a folder of its own.

    Attributes:
        out: folder of the results.
        attempts: what became of each case.
        cases: summaries of the finished ones: files, volumes in ml, share abstained from, warnings.
    """

    out: Path
    attempts: Sequence[Attempt]
    cases: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        return {"cases": list(self.cases), "failed": failures(self.attempts)}

    def lines(self) -> Iterable[str]:
        for case in self.cases:
            volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in case["volumes_ml"].items())
            yield f"{case['case']}: {volumes}"
            for warning in case["warnings"]:
                yield f"  Warning: {warning}"
            for name, file in case["files"].items():
                yield f"  {name}: {self.out / case['case'] / file}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    inference: InferenceOptions = InferenceOptions(),
    output: OutputOptions = OutputOptions(),
    reading: ReadingOptions = ReadingOptions(),
    viewer: bool = False,
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Segments volumes; every mask has the geometry of its image. A rerun goes on with the cases that are not done.

    Example: medical-segmentation organs predict ct_series/ --model run/model --format dicom-seg

    Args:
        path: a volume (NIfTI, MHA, NRRD, a folder of one DICOM series), or a folder of volumes. Files NAME_0000, NAME_0001 … are the
            channels of one case. Several folders with commas between them in --model are an ensemble.
        viewer: also write a page to scroll through image, mask and confidence.
    """
    from core_runtime.identity import model_identity
    from core_runtime.models import choose_model
    from medical_segmentation.organs.model.folder import load_model

    volumes = find_volumes(path)
    folders = [name.strip() for name in model.split(",")] if model else [choose_model(None, advice=ADVICE)]
    folders = [choose_model(folder, advice=ADVICE) for folder in folders]
    place = resolve_device(device)
    loaded = load_model(",".join(folders), device="cpu")
    if inference.abstain and loaded.threshold is None:
        raise UserError(
            "the model has no threshold to abstain below: it was held out too few cases, or is an ensemble",
            "train with more held-out cases, or a higher --risk",
        )
    if output.similar is not None:
        from medical_segmentation.similar.searching import open_index

        open_index(Path(output.similar))  # a mistake shows before the first case
    version = json.dumps([model_identity(Path(folder)) for folder in folders])
    cases = group_channels(volumes, path, len(loaded.channels))
    items = []
    for name, images in cases.items():
        if name.startswith("case-") and name not in str(images[0]):
            warn(f"{images[0]} names the patient: its results are called {name}")
        work = Work(images, name, ",".join(folders), version, place, inference, output, reading, viewer)
        items.append(_item(work, out))
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Segmenting")
    return Predictions(out, attempts, read_results(items, attempts, "summary.json"))


def group_channels(volumes: Sequence[Path], root: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """The files of each case by its name: one, or NAME_0000 … of a model with several channels.

    Raises:
        UserError: two cases of one name.
    """
    import re

    cases: dict[str, list[Path]] = {}
    for path in volumes:
        name = case_name(path, root)
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if match and (channels > 1 or match[2] == "0000"):
            name = match[1]
        cases.setdefault(name, []).append(path)
    for name, files in cases.items():
        if len(files) > 1 and len(files) != channels:
            raise UserError(
                f"{root}: {len(files)} files would be the case {name!r}, the model takes {counted(channels, 'channel')}",
                "rename them",
            )
    return {name: tuple(sorted(files)) for name, files in cases.items()}


def _item(work: Work, out: Path) -> Item:
    from core_runtime.identity import identity

    key = {
        "volume": [identity(path) for path in work.images],
        "model": json.loads(work.version),
        "inference": {name: value for name, value in asdict(work.settings).items() if name != "batch"},
        "output": asdict(work.output),
        "similar": identity(Path(work.output.similar) / "index.json") if work.output.similar else None,
        "reading": asdict(work.reading),
        "viewer": work.viewer,
    }
    return Item(work.name, work, out / work.name, key=key, inputs=work.images)


@lru_cache(1)
def _load(model: str, version: str, device: str) -> Any:
    """The model, once in each process."""
    from medical_segmentation.organs.model.folder import load_model

    return load_model(model, device=device)


@lru_cache(1)
def _index(folder: str, device: str) -> Any:
    """The index, once in each process."""
    from medical_segmentation.similar.searching import open_index

    return open_index(Path(folder), device=device)


def draw_similar(work: Work, volume: Any, labels: Any, path: Path) -> list[Mapping[str, Any]]:
    """Draws the images of the index that are most like the slice with the most organ (the middle one where there is none).

    Returns:
        Rank, name, class and distance of each.
    """
    from medical_segmentation.similar.images import slice_picture

    index = _index(work.output.similar or "", work.device)
    areas = (labels > 0).sum((0, 1))
    k = int(areas.argmax()) if areas.any() else labels.shape[2] // 2
    array = volume.array[..., 0] if volume.array.ndim == 4 else volume.array
    picture = slice_picture(array, k)
    found = index.nearest(picture, min(SIMILAR, len(index.gallery)))
    index.draw(picture, f"slice {k + 1}", found, path)
    return list(found.rows)


def predict_item(item: Item) -> dict[str, Any]:
    """Segments a case; why it cannot be is said without naming the patient, for it stands in the log."""
    try:
        return _segment(item)
    except UserError as error:
        path = item.source.images[0]
        raise UserError(without_identifiers(error.message, path, item.name), error.hint) from None


def _segment(item: Item) -> dict[str, Any]:
    """Segments a case into a folder of its own, whole or not at all."""
    import numpy as np

    from core_runtime.folders import write_text, writing
    from medical_segmentation.organs.cohort.dataset import Case, open_case
    from medical_segmentation.organs.reports.figures import prediction_sheet
    from medical_segmentation.organs.reports.overlays import attention_volume
    from medical_segmentation.volumes.nifti import write_nifti

    work: Work = item.source
    model = _load(work.model, work.version, work.device)
    formats = chosen_formats(work)
    volume = open_case(Case(work.name, work.name, work.images), work.reading)
    without = ""
    if work.output.format == "auto" and "dicom-seg" in formats:
        from medical_segmentation.volumes.dicom_seg import why_no_segmentation

        without = why_no_segmentation(volume)
        if without:
            formats = ["nifti"]
    if {"dicom-seg", "rtstruct"} & set(formats) and not volume.frames:
        raise UserError(
            f"--format {work.output.format} needs a DICOM series as input, {item.name} is {volume.kind}",
            "--format nifti",
        )
    result = model.predict(volume, work.settings if not work.viewer else replace(work.settings, confidence=True))
    labels = result.labels
    voxel = float(np.prod(volume.geometry.spacing)) / 1000
    abstained = None
    if work.settings.abstain:
        abstained = (result.confidence < model.threshold).astype(np.uint8)
        labels = np.where(abstained > 0, 0, labels).astype(np.uint8)
    files: dict[str, str] = {}
    with writing(item.output) as part:
        part.mkdir()
        stem = Path(item.name).name
        if "nifti" in formats:
            files["mask"] = f"{stem}.nii.gz"
            write_nifti(labels, volume, part / files["mask"])
        if abstained is not None:
            files["abstained"] = f"{stem}_abstained.nii.gz"
            write_nifti(abstained, volume, part / files["abstained"])
        if work.settings.confidence:
            files["confidence"] = f"{stem}_confidence.nii.gz"
            write_nifti(result.confidence.astype(np.float32), volume, part / files["confidence"])
        if "dicom-seg" in formats:
            from medical_segmentation.volumes.dicom_seg import write_dicom_seg

            files["segmentation"] = f"{stem}_seg.dcm"
            write_dicom_seg(
                labels,
                volume,
                model.classes,
                part / files["segmentation"],
                model="attention-suite organs",
                form=work.output.segmentation,
                deidentify=work.output.deidentify,
            )
        if "rtstruct" in formats:
            from medical_segmentation.volumes.rtstruct import write_rtstruct

            files["structures"] = f"{stem}_rtstruct.dcm"
            write_rtstruct(
                labels,
                volume,
                model.classes,
                part / files["structures"],
                model="attention-suite organs",
                deidentify=work.output.deidentify,
            )
        files["picture"] = "picture.png"
        attention = attention_volume(model, volume, labels)
        prediction_sheet(
            volume, labels, model.classes, part / files["picture"], attention=attention, confidence=result.confidence
        )
        if work.viewer:
            from medical_segmentation.organs.reports.viewer import write_viewer

            files["viewer"] = "viewer.html"
            write_viewer(
                volume,
                labels,
                model.classes,
                part / files["viewer"],
                confidence=result.confidence,
                attention=attention,
                title=item.name,
            )
        similar = None
        if work.output.similar:
            files["similar"] = "similar.png"
            similar = draw_similar(work, volume, labels, part / files["similar"])
        summary = {
            "case": item.name,
            "files": files,
            "volumes_ml": {
                name: round(float((labels == number).sum()) * voxel, 3)
                for number, name in enumerate(model.classes)
                if number
            },
            "similar": similar,
            "abstained_share": None if abstained is None else float(abstained.mean()),
            "geometry": volume.geometry.plain(),
            "warnings": [
                *volume.warnings,
                *model.doubts(volume),
                *([f"no DICOM segmentation is written: {without}"] if without else []),
            ],
        }
        write_text(part / "summary.json", json.dumps(summary, indent=1))
    return {"volumes_ml": summary["volumes_ml"]}


def chosen_formats(work: Work) -> list[str]:
    """What ``--format auto`` means for a case."""
    if work.output.format != "auto":
        return [work.output.format]
    from medical_segmentation.volumes.formats import dicom_files, is_dicom

    path = work.images[0]
    is_series = bool(dicom_files(path)) if path.is_dir() else is_dicom(path)
    return ["dicom-seg", "nifti"] if is_series else ["nifti"]
