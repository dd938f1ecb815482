"""A slide of any size in the same memory: single-level files of hundreds of megapixels whose tiles share a few JPEG streams on disk."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from pathology_mil.samples.pyramid import _RATIONAL, _write_directory


def huge(path, side):
    """A single-level tiled TIFF of side × side pixels at 0.25 µm: glass with one round piece of tissue in the middle, a few kB on disk."""
    rng = np.random.default_rng(0)
    tissue = cv2.GaussianBlur(rng.integers(90, 220, (256, 256, 3), dtype=np.uint8), (0, 0), 2)
    tissue = (tissue * np.array([1.0, 0.6, 0.9])).astype(np.uint8)
    glass = np.full((256, 256, 3), 244, np.uint8)
    n = -(-side // 256)
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        places = []
        for picture in (glass, tissue):
            data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
            places.append((file.tell(), len(data)))
            file.write(data)
        y, x = np.mgrid[0:n, 0:n]
        inside = ((y - n / 2) ** 2 + (x - n / 2) ** 2 < (n / 4) ** 2).ravel().astype(int)
        tags = [
            (254, 4, [0]), (256, 4, [side]), (257, 4, [side]), (258, 3, [8, 8, 8]), (259, 3, [7]), (262, 3, [6]), (277, 3, [3]),
            (282, _RATIONAL, [40000, 1]), (283, _RATIONAL, [40000, 1]), (284, 3, [1]), (296, 3, [3]), (322, 4, [256]), (323, 4, [256]),
            (324, 4, [places[i][0] for i in inside]), (325, 4, [places[i][1] for i in inside]), (530, 3, [2, 2]),
        ]  # fmt: skip
        _write_directory(file, 4, tags)
    return path


RUN = """
import resource, sys
from pathlib import Path
from pathology_mil.features.encoding import Storage, encode_slides
from pathology_mil.features.options import EncoderOptions
from pathology_mil.slides.reading import find_slides
from pathology_mil.slides.options import TileOptions, Tiling
from pathology_mil.slides.tiling import tile_slides
slide, job = map(Path, sys.argv[1:])
_, tiled = tile_slides(find_slides(slide), job, Tiling(TileOptions(mag=10, min_tissue=0.5)))
_, encoded = encode_slides(job, EncoderOptions(encoder="colour-texture"), Storage(batch=16))
print(tiled[0].status, encoded[0].facts["tiles"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measured(path, job):
    """Number of tiles and peak memory in MB of tiling and encoding a slide in a fresh process."""
    end = subprocess.run([sys.executable, "-c", RUN, str(path), str(job)], capture_output=True, text=True, check=True)
    status, tiles, peak = end.stdout.split()
    assert status == "done"
    return int(tiles), int(peak)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(tmp_path):
    small = measured(huge(tmp_path / "small.tif", 8_000), tmp_path / "a")
    large = measured(huge(tmp_path / "large.tif", 20_000), tmp_path / "b")
    assert large[0] > 4 * small[0]
    assert large[1] < small[1] + 150, f"{small[1]} MB for 64 megapixels, {large[1]} MB for 400"


def test_a_large_single_level_slide_has_tissue_and_tiles(tmp_path):
    from pathology_mil.slides.options import TileOptions, Tiling
    from pathology_mil.slides.reading import Slide
    from pathology_mil.slides.tiles import make_tiles

    with Slide(huge(tmp_path / "s.tif", 6_000)) as slide:
        assert (slide.levels, slide.mpp) == ([(6000, 6000)], 0.25)
        tiles, tissue = make_tiles(slide, Tiling(TileOptions(mag=20, min_tissue=0.5)))
    assert len(tissue.contours) == 1
    expected = np.pi * 1500**2
    assert tissue.polygons().area == pytest.approx(expected, rel=0.1)
    assert len(tiles.coords) * 512**2 == pytest.approx(expected, rel=0.15)
