"""Where a data set's images and labels lie: nnU-Net v2, the Medical Segmentation Decathlon, CHAOS, HVSMR, BraTS, PNG slices, plain folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, counted, few
from medical_segmentation.organs.cohort.dataset import Case, Dataset, patient_of
from medical_segmentation.volumes.formats import PICTURES, dicom_files, ending, is_hidden, stem

HINT = "nnU-Net and Decathlon folders have a dataset.json; else put images into images/ and labels of the same names into labels/"
CHAOS_CLASSES = {0: "background", 1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
# Grey values of CHAOS' ground truth → classes; the bands are those of its evaluation
CHAOS_BANDS = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}
CHAOS_MAPPING = {
    **dict.fromkeys(range(256), 0),
    **{value: number for number, (low, high) in CHAOS_BANDS.items() for value in range(low, high + 1)},
}
BRATS_CHANNELS = ("flair", "t1", "t1ce", "t2")
BRATS_CLASSES = {0: "background", 1: "necrosis", 2: "oedema", 3: "enhancing tumour"}
BRATS_REGIONS = {"whole tumour": (1, 2, 3), "tumour core": (1, 3), "enhancing tumour": (3,)}


def find_dataset(root: Path) -> Dataset:
    """The data set at a folder.

    Raises:
        UserError: no such folder, or no layout that is known.
    """
    if not root.exists():
        raise UserError(f"no such folder: {root}", HINT)
    if not root.is_dir():
        raise UserError(f"{root} is a file, a folder with images and labels is needed", HINT)
    readers: list[Callable[[Path], Dataset | None]] = [_with_json, _chaos, _hvsmr, _brats, _png, _plain]
    for read in readers:
        dataset = read(root)
        if dataset is not None:
            if not dataset.labelled:
                raise UserError(f"{root} ({dataset.layout}) has no labelled case", HINT)
            if read is _with_json:  # these layouts have a part of test images, whose labels are withheld
                return dataset
            return replace(dataset, notes=[*dataset.notes, *_without_labels(dataset)])
    raise UserError(f"{root} is no data set that is known", HINT)


def _without_labels(dataset: Dataset) -> list[str]:
    """A note on images without labels: they are neither trained on nor judged."""
    names = [case.name for case in dataset.cases if case.labels is None]
    if not names:
        return []
    return [f"{counted(len(names), 'image')} of {len(dataset.cases)} without labels, left out: {few(names)}"]


def _volumes(folder: Path) -> list[Path]:
    """Volumes directly in a folder: files, and folders of DICOM slices."""
    if not folder.is_dir():
        return []
    found = []
    for each in sorted(folder.iterdir()):
        if is_hidden(each):
            continue
        if (each.is_dir() and dicom_files(each)) or ending(each) not in ("", ".img"):
            found.append(each)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no JSON: {error}", "correct it") from None
    if not isinstance(described, dict):
        raise UserError(f"{path} holds {type(described).__name__}, expected an object", "correct it")
    return described


def _with_json(root: Path) -> Dataset | None:
    path = root / "dataset.json"
    if not path.is_file():
        return None
    described = _read_json(path)
    if "channel_names" in described:
        return _nnunet(root, described)
    if "modality" in described or "training" in described:
        return _decathlon(root, described)
    raise UserError(f"{path} has neither channel_names (nnU-Net v2) nor modality (Decathlon)", "add the one that fits")


def _nnunet(root: Path, described: Mapping[str, Any]) -> Dataset:
    where = root / "dataset.json"
    channels = [str(described["channel_names"][key]) for key in sorted(described["channel_names"], key=int)]
    classes, regions = _nnunet_labels(described.get("labels", {}), where)
    _check_classes(classes, where)
    images: dict[str, dict[int, Path]] = {}
    for path in _volumes(root / "imagesTr") + _volumes(root / "imagesTs"):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        name, number = (match[1], int(match[2])) if match else (stem(path), 0)
        images.setdefault(name, {})[number] = path
    labels = {stem(path): path for path in _volumes(root / "labelsTr") + _volumes(root / "labelsTs")}
    bare = [name for name in images if name not in labels and _is_training(images[name])]
    if bare:
        raise UserError(
            f"{root}: {counted(len(bare), 'image')} of imagesTr without a file in labelsTr: {few(bare)}",
            "add the labels, or move the images to imagesTs",
        )
    cases = []
    for name, parts in images.items():
        if sorted(parts) != list(range(len(channels))) and not (len(parts) == 1 and dicom_files_of(parts)):
            raise UserError(
                f"{root}: {name} has channels {sorted(parts)}, dataset.json names {len(channels)}",
                f"every case needs {name}_0000 … {name}_{len(channels) - 1:04d}",
            )
        cases.append(Case(name, patient_of(name), tuple(parts[key] for key in sorted(parts)), labels.get(name)))
    orphans = [name for name in labels if name not in images]
    if orphans:
        raise UserError(f"{root}: labels without an image: {few(orphans)}", "add the images or take the labels away")
    drawn = described.get("drawn") is True
    return Dataset(root, "nnU-Net v2", cases, classes, channels, regions=regions, folds=_folds(root), drawn=drawn)


def _nnunet_labels(labels: Mapping[str, Any], where: Path) -> tuple[dict[int, str], dict[str, tuple[int, ...]] | None]:
    """The classes by number, and the regions where some are lists of labels.

    A network learns the labels, of which each voxel has one; a label that is no region by itself has no name there, and is called by its number.
    """
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(isinstance(number, int) for number in numbers):
            raise UserError(
                f"{where}: labels.{name} is {value!r}", "a label is a whole number, a region a list of them"
            )
        if name != "ignore":
            regions[str(name)] = tuple(numbers)
    alone = {numbers[0]: name for name, numbers in regions.items() if len(numbers) == 1}
    classes = {}
    for number in sorted({number for numbers in regions.values() for number in numbers}):
        classes[number] = alone.get(number, f"label {number}")
    if not any(isinstance(value, list) for value in labels.values()):
        return classes, None
    judged = {name: numbers for name, numbers in regions.items() if numbers != (0,)}
    with_background = [name for name, numbers in judged.items() if 0 in numbers]
    if with_background:
        raise UserError(f"{where}: {few(with_background)} holds the background 0", "a region is made of other labels")
    return classes, judged


def _is_training(parts: Mapping[int, Path]) -> bool:
    return any(path.parent.name == "imagesTr" for path in parts.values())


def dicom_files_of(parts: Mapping[int, Path]) -> bool:
    """Whether a case is one folder of DICOM slices."""
    return all(path.is_dir() for path in parts.values())


def _folds(root: Path) -> list[tuple[list[str], list[str]]]:
    path = root / "splits_final.json"
    if not path.is_file():
        return []
    try:
        return [(list(fold["train"]), list(fold["val"])) for fold in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no list of train and val names: {error}", "correct or remove it") from None


def _decathlon(root: Path, described: Mapping[str, Any]) -> Dataset:
    where = root / "dataset.json"
    channels = [str(described["modality"][key]) for key in sorted(described.get("modality", {}), key=int)] or ["image"]
    classes = {int(key): str(name) for key, name in described.get("labels", {}).items()}
    _check_classes(classes, where)
    cases = []
    for entry in described.get("training", []):
        image, label = root / entry["image"], root / entry["label"]
        for path in (image, label):
            if not path.exists():
                raise UserError(f"{where} names {path.relative_to(root)}, which is not there", "complete the download")
        cases.append(Case(stem(image), patient_of(stem(image)), (image,), label))
    absent = []
    for entry in described.get("test", []):
        image = root / (entry["image"] if isinstance(entry, dict) else entry)
        if image.exists():
            cases.append(Case(stem(image), patient_of(stem(image)), (image,)))
        else:
            absent.append(image.name)
    notes = (
        [f"{counted(len(absent), 'test image')} named by dataset.json and not there: {few(absent)}"] if absent else []
    )
    return Dataset(root, "Medical Segmentation Decathlon", cases, classes, channels, notes=notes)


def _check_classes(classes: Mapping[int, str], where: Path) -> None:
    if sorted(classes) != list(range(len(classes))) or len(classes) < 2:
        raise UserError(
            f"{where}: labels are {sorted(classes)}, they must count from 0 (background) without gaps", "renumber them"
        )


def _chaos(root: Path) -> Dataset | None:
    base = next(
        (
            each
            for each in (root, root / "Train_Sets", root / "CHAOS_Train_Sets" / "Train_Sets")
            if (each / "MR").is_dir() or (each / "CT").is_dir()
        ),
        None,
    )
    if base is None:
        return None
    cases = []
    for patient in sorted((base / "MR").glob("*/")) if (base / "MR").is_dir() else []:
        for folder, truth, name in (
            ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground", "t1in"),
            ("T2SPIR/DICOM_anon", "T2SPIR/Ground", "t2"),
        ):
            if (patient / folder).is_dir():
                labels = patient / truth
                cases.append(
                    Case(
                        f"MR{patient.name}_{name}",
                        f"MR{patient.name}",
                        (patient / folder,),
                        labels if labels.is_dir() else None,
                    )
                )
    mapping: Mapping[int, int] = CHAOS_MAPPING
    classes: Mapping[int, str] = CHAOS_CLASSES
    if not cases:
        for patient in sorted((base / "CT").glob("*/")):
            labels = patient / "Ground"
            cases.append(
                Case(
                    f"CT{patient.name}",
                    f"CT{patient.name}",
                    (patient / "DICOM_anon",),
                    labels if labels.is_dir() else None,
                )
            )
        mapping, classes = {1: 1, 255: 1}, {0: "background", 1: "liver"}
    return (
        Dataset(root, "CHAOS", cases, classes, ("MR" if "MR" in cases[0].name else "CT",), mapping) if cases else None
    )


def _hvsmr(root: Path) -> Dataset | None:
    images = [path for path in _volumes(root) if re.fullmatch(r"training_.+_pat\d+", stem(path))]
    if not images:
        return None
    cases = []
    for path in images:
        labels = path.with_name(f"{stem(path)}-label{ending(path)}")
        cases.append(Case(stem(path), patient_of(stem(path)), (path,), labels if labels.exists() else None))
    return Dataset(root, "HVSMR 2016", cases, {0: "background", 1: "myocardium", 2: "blood pool"}, ("MR",))


def _brats(root: Path) -> Dataset | None:
    folders = [
        each for grade in ("HGG", "LGG", ".") for each in sorted((root / grade).glob("*/")) if _first(each, "flair")
    ]
    if not folders:
        return None
    cases = []
    for folder in folders:
        images = [_first(folder, channel) for channel in BRATS_CHANNELS]
        absent = [channel for channel, path in zip(BRATS_CHANNELS, images, strict=True) if path is None]
        if absent:
            raise UserError(f"{folder} has no {few(absent)}", "BraTS cases have four channels")
        cases.append(Case(folder.name, folder.name, tuple(path for path in images if path), _first(folder, "seg")))
    return Dataset(root, "BraTS", cases, BRATS_CLASSES, BRATS_CHANNELS, {4: 3}, BRATS_REGIONS)


def _first(folder: Path, channel: str) -> Path | None:
    found = [path for path in folder.glob(f"*_{channel}.nii*") if not is_hidden(path)]
    return found[0] if found else None


def _png(root: Path) -> Dataset | None:
    """``{train,val,test}/{Img,GT}/Subj_Xslice_Y.png`` of the published code; every subject's slices become a volume."""
    parts = [part for part in ("train", "val", "test") if (root / part / "Img").is_dir()]
    if not parts:
        return None
    from medical_segmentation.organs.cohort.slices import subject_folders

    cases = []
    for part in parts:
        images, labels = subject_folders(root / part / "Img"), subject_folders(root / part / "GT")
        for name, folder in images.items():
            cases.append(Case(f"{part}_{name}", name, (folder,), labels.get(name), part))
    mapping = {value: round(value / 63) for value in range(256)}
    return Dataset(root, "PNG slices", cases, CHAOS_CLASSES, ("MR",), mapping, spacing=(1.0, 1.0, 1.0))


def _plain(root: Path) -> Dataset | None:
    images, labels = root / "images", root / "labels"
    if not images.is_dir() or not labels.is_dir():
        return None
    truths = {stem(path): path for path in _volumes(labels)}
    for folder in labels.iterdir():
        if folder.is_dir() and any(each.suffix.lower() in PICTURES for each in folder.iterdir()):
            truths[folder.name] = folder
    cases = []
    for path in _volumes(images):
        name = re.sub(r"_0000$", "", stem(path))
        cases.append(Case(name, patient_of(name), (path,), truths.pop(name, None)))
    notes = [f"{counted(len(truths), 'label')} without an image, left out: {few(sorted(truths))}"] if truths else []
    return Dataset(root, "images/ and labels/", cases, {}, (), notes=notes)
