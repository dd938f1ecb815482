"""Seeded mutations of what `maps` reads: sheets, where they lie, labels, masks, models and runs."""

import json
import shutil

import numpy as np
import pytest
from mutating import changed, mutated, try_changes, try_mutations
from PIL import Image
from shapely.geometry import box, mapping
from written import HERE, LV95, write_raster

from core_runtime.errors import UserError
from remote_sensing.maps.model.folder import load
from remote_sensing.maps.sheets.grid import Grid, to_map
from remote_sensing.maps.sheets.labels import rasterised, read_label
from remote_sensing.maps.sheets.options import LabelOptions
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.maps.vectors.options import VectorOptions
from remote_sensing.maps.vectors.vectorise import vectorise

# GDAL's messages hold any bytes of a damaged file, which rasterio's logging cannot always decode
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
GRID = Grid(96, 96, HERE, LV95)
LABELS = LabelOptions(classes=("railway", "vineyard"), class_column="class")
CONFIG = """arguments:
  data: absent
  side: 224
  shots: 0
  classes: [railway, vineyard]
  line_width: 4px
  stretch: percentile
  variant: tiny
  image_size: 64
  masked_attention: double
  epochs: 2
  lr: 0.001
  batch: 4
  augment: true
  seed: 1234
  workers: 0
"""


@pytest.fixture(scope="module")
def originals(paper, model_folder, tmp_path_factory):
    """A small file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    write_raster(folder / "sheet.tif", paper, photometric="RGB")
    Image.fromarray(paper.transpose(1, 2, 0)).save(folder / "s.png")
    (folder / "s.pgw").write_text("1.25\n0\n0\n-1.25\n2600000.625\n1199999.375\n")
    Image.fromarray(paper.transpose(1, 2, 0)).save(folder / "q.png")
    rows = [f"{x},{y},{c},{-r},1,0,0,0" for r, c in ((0, 0), (0, 96), (96, 0)) for x, y in [HERE * (c, r)]]
    (folder / "q.png.points").write_text(
        "\n".join(["mapX,mapY,sourceX,sourceY,enable,dX,dY,residual", *rows, ""]), encoding="utf-8"
    )
    squares = [box(20 * i, 10, 20 * i + 9, 19) for i in range(4)]
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": mapping(to_map(square, HERE))}
        for name, square in zip(("railway", "vineyard", "Railway", None), squares, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2056"}}
    collection = {"type": "FeatureCollection", "crs": crs, "features": features}
    (folder / "labels.geojson").write_text(json.dumps(collection))
    mask = np.zeros((96, 96), np.uint8)
    mask[20:24, 5:80] = 1
    write_raster(folder / "mask.tif", mask, nodata=255)
    Image.fromarray(255 * mask).save(folder / "label.png")
    (folder / "sheet.vrt").write_text(
        '<VRTDataset rasterXSize="96" rasterYSize="96"><SRS>EPSG:2056</SRS>'
        "<GeoTransform>2600000, 1.25, 0, 1200000, 0, -1.25</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">s.png</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )
    shutil.copytree(model_folder, folder / "model")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def read_sheet(path):
    with Sheet(path) as sheet:
        sheet.read(slice(0, min(sheet.grid.height, 96)), slice(0, min(sheet.grid.width, 96)))


def read_config(folder):
    """The options of a run's config.yaml; the tiles that it names are not there."""
    from core_runtime.cli import _call
    from remote_sensing.cli import app

    with pytest.raises(UserError) as refused:
        _call(app, ["maps", "train", str(folder / "absent"), "--config", str(folder / "config.yaml")])
    if "absent" not in refused.value.message:
        raise refused.value


def read_mask(folder):
    options = VectorOptions(centrelines=True, min_area="3px")
    vectorise(folder / "mask.tif", folder / "m.geojson", options)


# format → (files that are copied, the one that is changed, what is done with them, what may be written)
FORMATS = {
    "GeoTIFF sheets": (("sheet.tif",), "sheet.tif", lambda f: read_sheet(f / "sheet.tif"), ()),
    "world files": (("s.png", "s.pgw"), "s.pgw", lambda f: read_sheet(f / "s.png"), ()),
    "points of QGIS": (("q.png", "q.png.points"), "q.png.points", lambda f: read_sheet(f / "q.png"), ()),
    "virtual rasters": (("s.png", "sheet.vrt"), "sheet.vrt", lambda f: read_sheet(f / "sheet.vrt"), ()),
    "GeoJSON labels": (
        ("labels.geojson",),
        "labels.geojson",
        lambda f: rasterised(f / "labels.geojson", GRID, LABELS),
        (),
    ),
    "label pictures": (("label.png",), "label.png", lambda f: read_label(f / "label.png", 1), ()),
    "masks": (("mask.tif",), "mask.tif", read_mask, ("m.geojson", "m_centrelines.geojson")),
    "config.json of MapSAM": (("model",), "model/config.json", lambda f: load(f / "model"), ()),
    "weights of MapSAM": (("model",), "model/model.safetensors", lambda f: load(f / "model"), ()),
    "config.yaml": (("config.yaml",), "config.yaml", read_config, ()),
}


def try_format(originals, folder, kind, count):
    """Reads `count` mutations of a format."""
    copied, changed_file, read, written = FORMATS[kind]
    for name in copied:
        if (originals / name).is_dir():
            shutil.copytree(originals / name, folder / name)
        else:
            shutil.copy(originals / name, folder)
    try_mutations(folder / changed_file, lambda: read(folder), count, folder=folder, allowed=written)


@mutated("mutations of map inputs", "an answer or one line", quick=12)
@pytest.mark.parametrize("kind", FORMATS)
def test_mutations_end_in_an_answer_or_one_line(originals, tmp_path, kind, count):
    try_format(originals, tmp_path, kind, count)


@changed(400, step=20)
def test_no_change_of_a_model_goes_unsaid(model_folder, tmp_path, capsys, changes):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    try_changes(folder / "config.json", lambda: load(folder), capsys, changes)
