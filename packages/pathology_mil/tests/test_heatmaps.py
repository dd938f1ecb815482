import json

import h5py
import numpy as np
import pytest
import shapely
from PIL import Image

from core_runtime.errors import UserError
from pathology_mil.commands.heatmap import heatmap
from pathology_mil.model.attention_scores import Scored, auprc, read_scores, softmax
from pathology_mil.reports.heatmaps import n_times_a, percentiles, render
from pathology_mil.reports.maps import draw_map
from pathology_mil.reports.options import MapOptions
from pathology_mil.samples.synthesis import HEIGHT, WIDTH
from pathology_mil.slides.annotations import find_annotation, overlap, read_annotations
from pathology_mil.slides.reading import Slide
from pathology_mil.slides.regions import truth_area
from pathology_mil.slides.tissue import PRESETS, segment


def test_scales():
    scores = np.array([[0.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    attention = softmax(scores)
    np.testing.assert_allclose(attention.sum(axis=1), 1)
    np.testing.assert_allclose(n_times_a(attention).mean(), 1)
    np.testing.assert_allclose(n_times_a(np.full(5, 0.2), zoom=0.5), 0.5)
    assert softmax(np.array([1e4, -1e4])).tolist() == [1.0, 0.0]
    assert percentiles(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [100.0, 25.0, 62.5, 62.5]
    assert percentiles(np.array([0.5, 9.0]), reference=np.array([0.0, 1.0])).tolist() == [50.0, 100.0]
    assert softmax(np.zeros(0)).shape == percentiles(np.zeros(0)).shape == (0,)


@pytest.fixture
def slide(cmu):
    with Slide(cmu) as slide:
        yield slide


def test_glass_between_two_pieces_is_not_coloured(tmp_path):
    picture = np.full((300, 400, 3), (243, 240, 244), np.uint8)
    picture[50:250, 20:160] = picture[50:250, 250:390] = (180, 90, 150)
    Image.fromarray(picture).save(tmp_path / "two.png")
    coords = np.array([[x, y] for y in range(0, 300, 50) for x in range(0, 400, 50)])
    attention = np.full(len(coords), 1 / len(coords))
    with Slide(tmp_path / "two.png", mpp=0.5) as slide:
        drawn = draw_map(slide, Scored(coords, 50, attention), tmp_path, MapOptions(max_side=400))
    overlay = np.asarray(Image.open(drawn.files["overlay"]))
    strip = np.s_[50:250, 200:250]
    np.testing.assert_array_equal(overlay[strip], picture[strip])
    assert (overlay[100:200, 60:140] != picture[100:200, 60:140]).any(-1).all()
    bare = sum((picture[y : y + 50, x : x + 50] > 200).mean() > 0.95 for x, y in coords)
    assert drawn.notes == (
        f"{bare} of 48 tiles show glass alone and are not coloured; {bare / 48:.0%} of the attention lies on them",
    )
    assert len(json.loads(drawn.files["qupath"].read_text())["features"]) == 48, "QuPath's tiles are all there"


def test_overlapping_tiles_are_averaged_and_the_rest_stays_blank(slide):
    coords = np.array([[0, 0], [128, 0]])
    picture = render(slide, coords, np.array([0.0, 1.0]), 256, vis_level=0, alpha=1.0, blank_canvas=True, cmap="gray")
    assert picture.shape == (2967, 2220, 3)
    assert [picture[10, x, 0] for x in (10, 200, 300)] == [0, 128, 255]
    assert (picture[300:] == 255).all()
    assert (picture[:, 400:] == 255).all()


def test_binary_maps_and_thresholds(slide):
    coords, scores = np.array([[0, 0], [512, 0], [1024, 0]]), np.array([0.2, 0.6, 0.2])
    base = {"vis_level": 0, "alpha": 1.0, "blank_canvas": True, "cmap": "gray", "binarize": True}
    cut = render(slide, coords, scores, 256, thresh=0.5, **base)
    assert [cut[10, x, 0] for x in (10, 520, 1030)] == [255, 255, 255]
    negative = render(slide, coords, scores, 256, thresh=-1, **base | {"cmap": "gray_r"})
    assert [negative[10, x, 0] for x in (10, 520, 1030)] == [255, 0, 255]


def test_sizes_tissue_and_blending(slide):
    coords, scores = np.array([[0, 0], [1024, 1024]]), np.array([0.1, 0.9])
    small = render(slide, coords, scores, 512, max_side=400)
    assert max(small.shape) == 400
    assert max(render(slide, coords, scores, 512, vis_level=0, max_size=300).shape) == 300
    assert render(slide, coords, scores, 512, vis_level=-1, custom_downsample=2).shape == (1483, 1110, 3)
    tissue = segment(slide, PRESETS["biopsy"])
    clipped = render(slide, coords, scores, 512, max_side=400, tissue=tissue, alpha=1.0)
    plain = slide.thumbnail(400)
    assert (clipped[:20, :20] == plain[:20, :20]).all(), "glass in a tile keeps its colour"
    assert (render(slide, coords, scores, 512, max_side=400, alpha=0.0) == plain).all()
    assert render(slide, coords, scores, 512, max_side=400, blur=True).shape == small.shape


def test_what_cannot_be_drawn_is_said_plainly(slide):
    coords = np.zeros((2, 2))
    for wrong in (
        {"scores": np.zeros(3)},
        {"scores": np.array([0.0, np.nan])},
        {"scores": np.zeros(2), "cmap": "nope"},
        {"scores": np.zeros(2), "alpha": 2},
        {"scores": np.zeros(2), "vis_level": 7},
    ):
        with pytest.raises(UserError):
            render(slide, coords, wrong.pop("scores"), 256, **wrong)


def nests(samples, path):
    return truth_area(read_annotations(find_annotation(samples / "annotations", path.stem)), where="x").shape


def scored(samples):
    """A tumour slide of the samples, scored by how much of each tile is nest, blurred by nothing: a perfect model."""
    path = next(p for p in sorted((samples / "slides").iterdir()) if find_annotation(samples / "annotations", p.stem))
    coords = np.array([[x, y] for x in range(0, WIDTH, 128) for y in range(0, HEIGHT, 128)])
    inside = overlap(nests(samples, path), coords, 128)
    return path, Scored(coords, 128, softmax(8 * inside), softmax(np.stack([8 * inside, inside])))


def test_files_of_a_map(samples, tmp_path):
    path, score = scored(samples)
    with Slide(path) as slide:
        made = draw_map(slide, score, tmp_path, MapOptions(branches=True, max_side=500, top=4), nests(samples, path))
    assert all(p.stat().st_size > 1000 for p in made.files.values())
    assert {"overlay", "figure", "qupath", "top tiles", "branch 0", "branch 1"} == set(made.files)
    assert made.facts["auprc"] == pytest.approx(1)
    assert 0 < made.facts["chance"] < 0.2
    tiles = json.loads(made.files["qupath"].read_text())["features"]
    assert len(tiles) == len(score.coords)
    assert tiles[0]["properties"]["objectType"] == "tile"
    assert set(tiles[0]["properties"]["measurements"]) == {"attention", "N x attention", "share drawn as tumour"}


def test_own_scores_in_every_form(tmp_path):
    coords = np.array([[0, 0], [256, 0], [0, 256]])
    raw = np.array([3.0, 1.0, -2.0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["attention_scores"] = raw[:, None]
        file["coords"] = coords
    read = read_scores(tmp_path / "a.h5")
    np.testing.assert_allclose(read.attention, softmax(raw))
    assert read.side == 256
    assert any("raw" in n for n in read.notes)
    np.savez(tmp_path / "b.npz", attention=softmax(np.stack([raw, raw])), coords=coords)
    assert read_scores(tmp_path / "b.npz").branches.shape == (2, 3)
    np.save(tmp_path / "c.npy", softmax(raw))
    with pytest.raises(UserError, match="without coordinates"):
        read_scores(tmp_path / "c.npy")
    np.testing.assert_allclose(read_scores(tmp_path / "c.npy", coords_from=tmp_path / "a.h5").attention, softmax(raw))
    np.save(tmp_path / "d.npy", np.zeros(5))
    np.save(tmp_path / "e.npy", np.array([1, np.nan, 0]))
    for name in "de":
        with pytest.raises(UserError):
            read_scores(tmp_path / f"{name}.npy", coords_from=tmp_path / "a.h5")


def test_other_slides_scores_and_changed_options_are_refused(samples, tmp_path):
    path, score = scored(samples)
    np.savez(tmp_path / "s.npz", attention=score.attention, coords=score.coords)
    options = MapOptions(max_side=300, top=2)
    first = heatmap(path, out=tmp_path / "out", drawing=options, scores=tmp_path / "s.npz")
    again = heatmap(path, out=tmp_path / "out", drawing=options, scores=tmp_path / "s.npz")
    assert first.attempts[0].facts == again.attempts[0].facts
    with pytest.raises(UserError, match=r"another zoom \(1.0, now 2\)"):
        heatmap(
            path,
            out=tmp_path / "out",
            drawing=MapOptions(max_side=300, top=2, zoom=2),
            scores=tmp_path / "s.npz",
        )
    np.savez(tmp_path / "far.npz", attention=score.attention, coords=score.coords + 100_000)
    with pytest.raises(UserError, match="outside the slide"):
        heatmap(path, out=tmp_path / "far", drawing=options, scores=tmp_path / "far.npz")
    with pytest.raises(UserError, match="no --model"):
        heatmap(path, out=tmp_path / "none", drawing=options)


def test_auprc_and_its_chance():
    truth = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert auprc(truth + 0.1, truth) == 1
    assert auprc(np.ones(10), truth) == pytest.approx(0.2)
    assert np.isnan(auprc(np.ones(3), np.zeros(3)))


@pytest.fixture
def glass(tmp_path):
    """A plain white picture of 400 × 300 pixels."""
    Image.new("RGB", (400, 300), (255, 255, 255)).save(tmp_path / "glass.png")
    with Slide(tmp_path / "glass.png", mpp=0.5) as slide:
        yield slide


def test_corners_and_sides_are_rounded_up_as_in_clam(glass):
    drawn = render(
        glass, np.array([[31, 31]]), np.array([0.0]), 62, max_side=100, alpha=1.0, blank_canvas=True, cmap="gray"
    )
    columns, rows = (np.flatnonzero((drawn[..., 0] == 0).any(axis=axis)) for axis in (0, 1))
    # 31 / 4 = 7.75 begins at 8; a side of 62 / 4 = 15.5 is 16, which ends before 24
    assert (columns[0], columns[-1]) == (rows[0], rows[-1]) == (8, 23)


def test_overlapping_tiles_are_averaged_on_any_slide(glass):
    coords = np.array([[0, 0], [64, 0]])
    drawn = render(glass, coords, np.array([0.0, 1.0]), 128, vis_level=0, alpha=1.0, blank_canvas=True, cmap="gray")
    assert [drawn[10, x, 0] for x in (10, 100, 150)] == [0, 128, 255]
    assert (drawn[200:] == 255).all()


def test_a_tile_that_is_half_tumour_is_tumour(tmp_path):
    Image.new("RGB", (200, 100), (180, 90, 150)).save(tmp_path / "a.png")
    truth = shapely.MultiPolygon([shapely.box(0, 0, 60, 100)])
    scored = Scored(np.array([[0, 0], [100, 0]]), 100, np.array([0.9, 0.1]))
    with Slide(tmp_path / "a.png", mpp=0.5) as slide:
        facts = draw_map(slide, scored, tmp_path, MapOptions(max_side=200), truth).facts
    assert (facts["auprc"], facts["chance"]) == (1.0, 0.5)
