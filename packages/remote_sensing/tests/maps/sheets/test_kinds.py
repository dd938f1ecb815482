"""What `inspect` says a raster is: not every GeoTIFF is a map; and models are written for the group."""

import numpy as np
import pytest
from PIL import Image
from written import write_raster

from remote_sensing.maps.commands.inspect import examine_sheet

GREY = np.full((96, 96), 90, np.uint8)


def satellite(path):
    from remote_sensing.landuse.samples.samples import draw_scene, write_geotiff

    write_geotiff(path, draw_scene(128, 1)[0], (600_000.0, 5_200_000.0))


def elevation(path):
    write_raster(path, np.linspace(300, 900, 96 * 96, dtype=np.float32).reshape(96, 96))


def heights_in_metres(path):
    write_raster(path, np.arange(96 * 96, dtype=np.int16).reshape(96, 96))


def mask(path):
    from remote_sensing.rasters import open_raster

    write_raster(path, GREY // 90, nodata=255)
    with open_raster(path, "r+") as file:
        file.update_tags(CLASS_1="railway")


def many_bands(path):
    write_raster(path, np.stack([GREY] * 6))


def scan(path):
    write_raster(path, np.stack([GREY] * 3), photometric="RGB")


def scan_with_named_bands(path):
    """As ArcGIS writes it."""
    from remote_sensing.rasters import open_raster

    scan(path)
    with open_raster(path, "r+") as file:
        for band in (1, 2, 3):
            file.set_band_description(band, f"Band_{band}")


def grey_scan(path):
    write_raster(path, GREY)


def deep_scan(path):
    write_raster(path, np.arange(96 * 96, dtype=np.uint16).reshape(96, 96))


@pytest.mark.reliability("rasters that are not scans", "named; what is for them is said")
@pytest.mark.parametrize(
    ("write", "kind", "command"),
    [
        (satellite, "satellite product", "landuse inspect"),
        (elevation, "elevation", None),
        (heights_in_metres, "elevation", None),
        (mask, "mask of classes", "maps vectorize"),
        (many_bands, "raster of many bands", None),
        (scan, "map sheet", "maps predict"),
        (grey_scan, "map sheet", "maps predict"),
        (scan_with_named_bands, "map sheet", "maps predict"),
        (deep_scan, "map sheet", "maps predict"),
    ],
)
def test_inspect_says_what_a_raster_is(tmp_path, write, kind, command):
    write(tmp_path / "r.tif")
    findings = examine_sheet(tmp_path / "r.tif")
    assert findings.kind.startswith(kind)
    assert findings.usable == (kind == "map sheet")
    assert any("not a" in warning for warning in findings.warnings) != findings.usable
    if command is None:
        assert not findings.next_commands
    else:
        assert command in findings.next_commands[0]


def test_written_models_are_readable_by_the_group(model_folder, tmp_path):
    from remote_sensing.maps.model.checkpoints import save_adapter
    from remote_sensing.maps.model.folder import load

    (tmp_path / "other").touch()  # as this process writes files
    usual = (tmp_path / "other").stat().st_mode & 0o777
    adapter = save_adapter(load(model_folder).network, tmp_path / "adapter.safetensors")
    for file in (adapter, model_folder / "model.safetensors", model_folder / "config.json"):
        assert file.stat().st_mode & 0o777 == usual, file.name


@pytest.mark.reliability("bands beside the picture's, EXIF's rotation, values that are not numbers", "said", cases=4)
def test_what_is_not_looked_at_is_said(tmp_path):
    write_raster(tmp_path / "two.tif", np.stack([GREY, GREY]))
    write_raster(tmp_path / "four.tif", np.stack([GREY] * 4), photometric="MINISBLACK")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "turned.jpg", exif=turned)
    half = np.stack([GREY] * 3).astype(np.float32)
    half[:, :48] = np.nan
    write_raster(tmp_path / "half.tif", half, photometric="RGB")

    def warnings(name):
        return " ".join(examine_sheet(tmp_path / name).warnings)

    assert "2 bands, not a picture: the first is used as grey" in warnings("two.tif")
    assert "4 bands, not a picture: three are used" in warnings("four.tif")
    assert "its EXIF says that it is to be turned" in warnings("turned.jpg")
    assert examine_sheet(tmp_path / "half.tif").details["holds data"] == "50%"
