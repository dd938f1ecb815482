import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from pathology_mil.samples.pyramid import write_pyramid
from pathology_mil.slides.options import ScanOptions
from pathology_mil.slides.reading import Slide, find_slides
from pathology_mil.slides.resolution import magnification, odd_objective, resolution


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (20, 30, 3)), np.ones((50, 50, 1))).astype(np.uint8)


@pytest.fixture
def pyramid(picture, tmp_path):
    path = tmp_path / "slide ü.svs"
    write_pyramid(path, picture, downsamples=(4, 16), mpp=0.5, aperio=True, quality=95)
    return path


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.24", "openslide.mpp-y": "0.26", "aperio.MPP": "0.5"}, 0.25, "openslide.mpp-x"),
        ({"openslide.mirax.MPP": "0,23", "aperio.MPP": "0.5"}, 0.23, "openslide.mirax.MPP"),
        ({"aperio.MPP": "0.499", "openslide.objective-power": "40"}, 0.499, "aperio.MPP"),
        ({"hamamatsu.XResolution": "226"}, 0.226, "hamamatsu.XResolution"),
        ({"hamamatsu.XResolution": "0.226"}, 0.226, "hamamatsu.XResolution"),
        ({"hamamatsu.XResolution": "44248"}, 0.226, "hamamatsu.XResolution"),
        ({"hamamatsu.XResolution": "1842.5"}, 1.8425, "hamamatsu.XResolution"),
        ({"hamamatsu.XResolution": "10000"}, 1.0, "hamamatsu.XResolution"),
        ({"hamamatsu.XResolution": "1.85"}, 1.85, "hamamatsu.XResolution"),
        ({"openslide.comment": "0.3"}, 0.3, "openslide.comment"),
        ({"openslide.comment": "Aperio 0.3", "x.mpp": "0.4"}, 0.4, "x.mpp"),
        ({"tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"}, 0.5, "tiff.XResolution"),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, 0.5, "tiff.XResolution"),
        ({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch", "aperio.AppMag": "40"}, 0.25, "aperio.AppMag"),
        ({"openslide.objective-power": "20", "aperio.AppMag": "40"}, 0.5, "openslide.objective-power"),
        ({"openslide.mpp-x": "nan", "aperio.MPP": "-1"}, None, "not recorded"),
    ],
)
def test_resolution_is_looked_up_in_order(properties, mpp, source):
    found = resolution(properties, mpp_keys=["x.mpp"])
    assert found.source == source
    assert found.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-4))
    assert resolution(properties, mpp=0.7).mpp == 0.7


def ome(x, y=None, unit=""):
    sizes = []
    for axis, size in (("X", x), ("Y", y)):
        if size is not None:
            sizes.append(f'PhysicalSize{axis}="{size}"')
            sizes.append(f'PhysicalSize{axis}Unit="{unit}"' if unit else "")
    pixels = f'<Pixels SizeX="9" {" ".join(sizes)}/>'
    return {"tiff.ImageDescription": f'<?xml version="1.0"?><OME><Image>{pixels}</Image></OME>'}


@pytest.mark.parametrize(
    ("properties", "mpp"),
    [
        (ome(0.25), 0.25),
        (ome(0.25, 0.25, "µm"), 0.25),
        (ome(250, 250, "nm"), 0.25),
        (ome(0.00025, 0.00025, "mm"), 0.25),
        (ome(0.25, unit="parsec"), None),
    ],
)
def test_ome_says_the_size_of_a_pixel(properties, mpp):
    assert resolution(properties).mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize("properties", [ome(0.25, 0.5), {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}])
def test_pixels_that_are_not_square_are_not_averaged(properties):
    found = resolution(properties)
    assert (found.mpp, found.axes) == (None, (0.25, 0.5))
    assert resolution(properties, mpp=0.25).axes is None


def test_another_dicom_modality_is_named(tmp_path):
    path = tmp_path / "ct.dcm"
    path.write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x60\x00CS\x02\x00CT" + bytes(500))
    with pytest.raises(UserError, match="a DICOM file of modality CT, not a whole-slide image"):
        Slide(path)


def test_one_slide_has_one_resolution_and_blank_rows_are_none(tmp_path, pyramid):
    table = tmp_path / "list.csv"
    table.write_text("wsi;mpp\nslide ü.svs;0,5\n;\n\nslide ü;0,5\n", encoding="utf-8")
    assert [(slide.slide_id, slide.mpp) for slide in find_slides(table)] == [("slide ü", 0.5)]
    table.write_text("wsi,mpp\nslide ü.svs,0.5\nslide ü,0.25\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3: slide ü is listed twice, with a resolution of 0.5 and of 0.25"):
        find_slides(table)
    table.write_bytes("wsi,mpp\nslide ü.svs,0.5\n".encode("latin-1"))
    assert find_slides(table)[0].path == pyramid


def test_nominal_magnification():
    assert [magnification(m) for m in (0.1, 0.17, 0.226, 0.25, 0.499, 1.0, 2.0)] == [80, 60, 40, 40, 20, 10, 5]
    with pytest.raises(UserError, match="coarser"):
        magnification(2.4)
    assert ScanOptions(slide_mag=40).mpp == 0.25
    for wrong in ({"slide_mpp": 0.5, "slide_mag": 20}, {"slide_mag": 0}):
        with pytest.raises(UserError):
            ScanOptions(**wrong)


def test_reading_a_pyramid(pyramid, picture):
    with Slide(pyramid) as slide:
        assert slide.slide_id == "slide ü"
        assert slide.levels == [(1500, 1000), (375, 250), (93, 62)]
        assert (slide.mpp, slide.mpp_source) == (0.5, "openslide.mpp-x")
        assert [slide.best_level(d) for d in (0.5, 1, 3.7, 4, 5, 16, 64)] == [0, 0, 1, 1, 1, 2, 2]
        tile = slide.read_tile(200, 300, side=256, size=64)
        np.testing.assert_allclose(tile.mean(axis=(0, 1)), picture[300:556, 200:456].mean(axis=(0, 1)), atol=3)
        edge = slide.read(1400, 900, width=200, height=200)
        assert (edge[:, 110:] == 255).all()
        assert (edge[110:] == 255).all()


def test_an_overview_is_put_together_without_seams(pyramid, monkeypatch):
    with Slide(pyramid) as slide:
        whole = slide.overview(8)
        monkeypatch.setattr("pathology_mil.slides.reading.WHOLE_PIXELS", 1000)
        monkeypatch.setattr("pathology_mil.slides.reading._BLOCK", 64)
        pieces = slide.overview(8)
        assert whole.shape == pieces.shape == (125, 188, 3)
        assert np.abs(whole.astype(int) - pieces).mean() < 3


def test_a_broken_tile_is_background_and_counted(pyramid):
    data = bytearray(pyramid.read_bytes())
    data[2000:2600] = b"\xff\xd9" * 300  # inside the first tile's JPEG stream
    data[8:400] = bytes(392)  # and its header
    pyramid.write_bytes(data)
    with Slide(pyramid) as slide:
        good = slide.read(600, 600, width=200, height=200)
        bad = slide.read(10, 10, width=100, height=100)
        assert slide.bad_regions == 1
        assert (bad == 255).all()
        assert good.std() > 10
        assert slide.read_level(0).shape == (1000, 1500, 3)  # only the block is lost
        assert slide.read_level(0)[600:].std() > 10


def test_plain_images(picture, tmp_path):
    for name in ("a.png", "b.jpg"):
        Image.fromarray(picture).save(tmp_path / name)
        with Slide(tmp_path / name) as slide:
            assert slide.levels == [(1500, 1000)]
            with pytest.raises(UserError, match="neither a resolution"):
                slide.known_mpp()
        with Slide(tmp_path / name, mpp=0.5) as slide:
            assert slide.known_mpp() == 0.5


def test_what_is_no_slide_is_said_plainly(tmp_path, pyramid):
    text, empty, cut = tmp_path / "text.svs", tmp_path / "empty.tif", tmp_path / "cut.png"
    text.write_text("not what the name says")
    empty.touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    short = tmp_path / "short.svs"
    short.write_bytes(pyramid.read_bytes()[:3000])
    for path in (text, empty, cut, short, tmp_path / "absent.svs", tmp_path):
        with pytest.raises(UserError) as error:
            Slide(path)
        assert len(str(error.value).splitlines()) == 1


def test_slides_are_found_in_nested_folders_and_lists(tmp_path, pyramid):
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    (deep / "two.SVS").write_bytes(pyramid.read_bytes())
    (deep / "notes.txt").touch()
    assert [s.slide_id for s in find_slides(tmp_path)] == ["slide ü", "two"]
    table = tmp_path / "list.csv"
    table.write_text("wsi,mpp\na/b/two.SVS,0.25\nslide ü,\n", encoding="utf-8")
    assert [(s.slide_id, s.mpp) for s in find_slides(table, mpp=0.4)] == [("slide ü", 0.4), ("two", 0.25)]
    table.write_text("wsi\nnone.svs\n")
    with pytest.raises(UserError, match=r"none\.svs"):
        find_slides(table)
    table.write_text("name\nx\n")
    with pytest.raises(UserError, match="columns"):
        find_slides(table)
    (tmp_path / "two.svs").write_bytes(b"")
    with pytest.raises(UserError, match="share the name"):
        find_slides(tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="no slides"):
        find_slides(tmp_path / "void")


def test_a_real_slide(cmu, tcga):
    with Slide(cmu) as slide:
        assert (slide.dimensions, slide.mpp) == ((2220, 2967), 0.499)
    with Slide(tcga) as slide:
        assert slide.mpp is None
        with pytest.raises(UserError) as error:
            slide.known_mpp()
        assert "--slide-mpp" in error.value.hint
        assert "--slide-mag" in error.value.hint


OME = "<OME><Image><Pixels SizeX='9' PhysicalSizeX='{size}' PhysicalSizeXUnit = \"{unit}\"/></Image></OME>"


@pytest.mark.reliability("sizes of a pixel that contradict each other or cannot be", "refused, or said", cases=5)
def test_sizes_of_a_pixel_that_contradict_each_other(tmp_path, picture):
    properties = {"openslide.mpp-x": "1", "tiff.ImageDescription": OME.format(size="0.25", unit="µm")}
    found = resolution(properties)
    assert (found.mpp, found.conflict) == (None, "1 µm per pixel (TIFF) and 0.25 (OME-XML)")
    assert resolution(properties, mpp=0.25).conflict == ""
    assert resolution(properties | {"openslide.mpp-x": "0.251"}).mpp == pytest.approx(0.251)
    assert odd_objective({"aperio.AppMag": "40"}, 0.5) == 40
    assert odd_objective({"aperio.AppMag": "40"}, 0.2529) is None
    assert odd_objective({"openslide.objective-power": "20"}, 0.499) is None
    Image.fromarray(picture).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png") as slide:
        slide.mpp, slide.conflict = None, found.conflict
        with pytest.raises(UserError, match="states two resolutions"):
            slide.known_mpp()


@pytest.mark.parametrize(
    "properties",
    [
        {"openslide.mpp-x": "0.001"},
        {"tiff.ImageDescription": OME.format(size="0.001", unit="µm")},
        {"tiff.XResolution": "10000000", "tiff.ResolutionUnit": "centimeter"},
        {"aperio.MPP": "0.0001"},
    ],
)
def test_no_microscope_has_such_pixels(properties):
    assert resolution(properties).mpp is None


def test_ome_in_any_quotes_and_units():
    for size, unit in (("0.25", "&#181;m"), ("250", "nm"), ("0.00984252e-3", "in"), ("250000", "pm")):
        found = resolution({"openslide.comment": OME.format(size=size, unit=unit)})
        assert found.mpp == pytest.approx(0.25, rel=1e-4), unit


def test_measurements_of_16_bits_are_no_stained_tissue(tmp_path):
    for name, values in (("a.png", np.full((60, 60), 3000, np.uint16)), ("a.tif", np.full((60, 60), 0.5, np.float32))):
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(UserError, match="more than 8 bits"):
            Slide(tmp_path / name)


def test_tiles_are_read_from_the_coarsest_level_that_is_fine_enough(pyramid):
    with Slide(pyramid) as slide:
        slide.downsamples = [(1.0, 1.0), (4.0003, 4.0), (16.1, 16.0)]
        levels = {downsample: slide.best_level(downsample) for downsample in (1, 2, 3.5, 4, 8, 14.5, 16, 64)}
    assert levels == {1: 0, 2: 0, 3.5: 0, 4: 1, 8: 1, 14.5: 1, 16: 2, 64: 2}
