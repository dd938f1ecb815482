"""Seeded mutations of files: each ends in a volume or one plain line, in bounded time, and never in another error."""

import gzip
import json
import random
import time
import warnings

import numpy as np
import pytest

from core_runtime.errors import UserError
from medical_segmentation.volumes.opening import open_volume
from medical_segmentation.volumes.volume import ReadingOptions

QUICK, THOROUGH = 40, 1000
SECONDS = 5  # of one mutation
SPACING = ReadingOptions(
    spacing=(0.8, 0.8, 2.5)
)  # of formats that do not say it: they would be refused before they are read


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three changes, half of them in the header: bytes turned, left out, repeated, or the end cut off."""
    for _ in range(rng.randint(1, 3)):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 1500)
        at = rng.randrange(reach + 1)
        end = at + rng.randint(1, 12)
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:end] + data[at:end] * rng.randint(1, 4) + data[end:]
        elif kind == 3:
            data = data[:at] + bytes(rng.choice([0, 255]) for _ in range(end - at)) + data[end:]
        elif rng.random() < 0.3:
            data = data[:at]
    return data


def packed(data, rng):
    """The inside of a gzip file changed: nothing but the header's own sense tells."""
    return gzip.compress(mutate(gzip.decompress(data), rng), 1)


def outcome(path) -> str:
    began, message, volume = time.process_time(), "", None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            volume = open_volume(path, SPACING)
        except UserError as error:
            message = error.message
    assert time.process_time() - began < SECONDS
    if volume is None:
        assert message
        assert "\n" not in message, message
        assert len(message) < 600, message
        return "refused"
    assert np.isfinite(volume.geometry.affine).all()
    assert volume.array.shape[:3] == volume.geometry.shape
    return "read"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One small file of every format."""
    import nibabel as nib
    import nrrd
    import SimpleITK as sitk

    from medical_segmentation.organs.samples import write_series

    folder = tmp_path_factory.mktemp("originals")
    values = np.random.default_rng(0).integers(-500, 500, (6, 5, 4)).astype(np.int16)
    affine = np.diag([-0.8, 0.8, 2.5, 1])
    nib.save(nib.Nifti1Image(values, affine), folder / "a.nii")
    nib.save(nib.Nifti1Image(values, affine), folder / "a.nii.gz")
    nib.save(nib.Nifti2Image(values, affine), folder / "b.nii")
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.nii")), str(folder / "a.mha"))
    nrrd.write(str(folder / "a.nrrd"), values)
    np.save(folder / "a.npy", values)
    series = write_series(values, affine, folder / "series")
    (next(series.glob("*.dcm"))).rename(folder / "a.dcm")
    return folder


def try_all(original, tmp_path, count, change=mutate):
    data, ended = original.read_bytes(), []
    for seed in range(count):
        path = tmp_path / f"changed{''.join(original.suffixes)}"
        path.write_bytes(change(data, random.Random(seed)))
        try:
            ended.append(outcome(path))
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {original.name}: {type(error).__name__}: {error}") from error
    return ended


NAMES = ["a.nii", "a.nii.gz", "b.nii", "a.mha", "a.nrrd", "a.npy", "a.dcm"]


@pytest.mark.reliability("mutations of volumes of every format", "a volume or one line, bounded time", cases=QUICK)
@pytest.mark.parametrize("name", NAMES)
def test_changed_files(originals, tmp_path, name):
    ended = try_all(originals / name, tmp_path, QUICK)
    assert "refused" in ended


@pytest.mark.slow
@pytest.mark.reliability("mutations of volumes of every format", "a volume or one line, bounded time", cases=THOROUGH)
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_changed_files(originals, tmp_path, name):
    ended = try_all(originals / name, tmp_path, THOROUGH)
    assert {"refused", "read"} <= set(ended)


@pytest.mark.reliability("mutations inside of compressed NIfTI", "a volume or one line, bounded time", cases=2 * QUICK)
def test_changes_inside_of_gzip(originals, tmp_path):
    try_all(originals / "a.nii.gz", tmp_path, 2 * QUICK, change=packed)


@pytest.mark.reliability(
    "a model's config.json: a field left out or of another type", "the model or one line", cases=40
)
def test_changed_configs_of_models(untrained, tmp_path):
    import shutil

    from medical_segmentation.organs import load_model

    described = json.loads((untrained / "config.json").read_text())
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    rng = random.Random(0)
    for _ in range(40):
        changed = json.loads(json.dumps(described))
        place = changed
        while True:
            name = rng.choice(sorted(place))
            if isinstance(place[name], dict) and place[name] and rng.random() < 0.8:
                place = place[name]
                continue
            break
        if rng.random() < 0.3:
            del place[name]
        else:
            place[name] = rng.choice([None, "x", -1, 1.5, 1e9, True, [], {}, [1, 2]])
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            load_model(folder)
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(
                f"{name} = {place.get(name, 'left out')!r}: {type(error).__name__}: {error}"
            ) from error
