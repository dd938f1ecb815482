"""What kind of picture a slide is, and that its tissue filter says when it was not made for it."""

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from pathology_mil.slides.options import TissueParams
from pathology_mil.slides.pictures import BRIGHTFIELD, DARK, GREY, IHC, picture_kind
from pathology_mil.slides.reading import Slide
from pathology_mil.slides.tissue import segment

PINK, BROWN = (220, 130, 180), (140, 90, 50)


def picture(ground, *blobs, side=600):
    image = np.full((side, side, 3), ground, np.uint8)
    for i, colour in enumerate(blobs):
        image[100 + 150 * i : 230 + 150 * i, 100:500] = colour
    return image


def saved(tmp_path, image):
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (picture(245, PINK), BRIGHTFIELD),
        (picture(245, PINK, BROWN), IHC),
        (picture(0, (0, 90, 0), (0, 0, 120)), DARK),
        (picture(10, (70, 70, 70)), DARK),
        (picture(245, (90, 90, 90)), GREY),
    ],
)
def test_kinds(image, kind):
    assert picture_kind(image) == kind


def test_real_slides_are_brightfield(cmu, tcga):
    for path in (cmu, tcga):
        with Slide(path) as slide:
            assert picture_kind(slide.small) == BRIGHTFIELD


def test_drawn_slides_are_brightfield(samples):
    for path in sorted((samples / "slides").glob("sample_*")):
        with Slide(path) as slide:
            assert picture_kind(slide.small) == BRIGHTFIELD, path.name


def test_fluorescence_is_not_tiled_as_stain(tmp_path, cli):
    path = saved(tmp_path, picture(0, (0, 90, 0), (0, 0, 120)))
    with Slide(path, mpp=0.5) as slide, pytest.raises(UserError, match="background is dark: fluorescence"):
        segment(slide)
    code, out, _ = cli("inspect", path, "--slide-mpp", 0.5, "--picture", tmp_path / "look.png")
    assert code == 2
    assert "fluorescence" in out
    assert (tmp_path / "look.png").stat().st_size > 500
    code, _, err = cli("tile", path, "--slide-mpp", 0.5, "--out", tmp_path / "job")
    assert code == 2
    assert "--tissue-from" in err


def test_grey_is_said(tmp_path):
    with Slide(saved(tmp_path, picture(245, (90, 90, 90))), mpp=0.5) as slide:
        assert any("no colour" in note for note in segment(slide, TissueParams(a_t=0.1)).notes)


def test_the_hint_names_the_area_that_helps(tmp_path, cli):
    """A small pale thumbnail: only a smaller area filter finds its tissue."""
    image = picture(245)
    image[100:180, 100:180] = PINK
    path = saved(tmp_path, image)
    code, _, err = cli("tile", path, "--slide-mpp", 0.5, "--out", tmp_path / "job", "--patch-size", 64)
    assert code == 2
    area = err.partition("--min-area ")[2].split()[0]
    code, out, err = cli(
        "tile", path, "--slide-mpp", 0.5, "--out", tmp_path / "job2", "--patch-size", 64, "--min-area", area
    )
    assert code == 0, err
    assert "tiles of 64 px" in out
