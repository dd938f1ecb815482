"""Screenshots of all kinds, and which files are taken for screenshots."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core_runtime.errors import UserError
from gui_grounding.adapters import FORMATS
from gui_grounding.coordinates import View
from gui_grounding.samples import make_samples
from gui_grounding.screens.formats import claim, find_screenshots
from gui_grounding.screens.pictures import open_screenshot, read_screenshot

SHARED = next(
    (parent / "shared" for parent in Path(__file__).parents if (parent / "shared" / "data" / "v2p").is_dir()), None
)
needs_shared = pytest.mark.skipif(SHARED is None, reason="needs shared/data/v2p beside the repository")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def colours(content, name="x.png"):
    return read_screenshot(content, name)


def test_every_mode_becomes_upright_rgb():
    red = Image.new("RGB", (6, 4), (200, 30, 30))
    assert colours(saved(red.quantize(4), "PNG")).image.getpixel((0, 0)) == (200, 30, 30)
    assert colours(saved(red.convert("L"), "PNG")).image.mode == "RGB"
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    shot = colours(saved(clear, "PNG"))
    assert shot.image.getpixel((0, 0)) == (255, 255, 255)
    assert "transparent" in shot.notes[0]
    deep = Image.fromarray(np.full((4, 6), 65535, np.uint16))
    shot = colours(saved(deep, "PNG"))
    assert shot.image.getpixel((0, 0)) == (255, 255, 255)
    assert "16 bits" in shot.notes[0]
    cmyk = colours(saved(Image.new("CMYK", (6, 4), (0, 0, 0, 0)), "JPEG"), "x.jpg")
    assert "CMYK" in cmyk.notes[0]


def test_exif_turns_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    shot = colours(saved(Image.new("RGB", (60, 40)), "JPEG", exif=exif), "x.jpg")
    assert shot.size == (40, 60)
    assert "upright" in shot.notes[0]


def test_of_an_animation_the_first_picture_is_taken():
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    shot = colours(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x.gif")
    assert shot.image.getpixel((0, 0)) == (255, 0, 0)
    assert "animation of 2" in shot.notes[0]


def test_what_is_no_screenshot_is_one_line(tmp_path):
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)), "PNG")
    with pytest.raises(UserError, match="is damaged"):
        read_screenshot(whole[: len(whole) // 2], "x.png")
    with pytest.raises(UserError, match="is not a picture"):
        read_screenshot(b"text", "x.png")
    # a header that promises 200 megapixels, as of a decompression bomb
    bomb = bytearray(whole)
    bomb[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    import zlib

    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"megapixels|not a picture"):
        read_screenshot(bytes(bomb), "x.png")
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="far more than 100 megapixels"):
        read_screenshot(bytes(bomb), "x.png")
    with pytest.raises(UserError, match="no such file"):
        open_screenshot(tmp_path / "absent.png")
    with pytest.raises(UserError, match="no such file"):
        find_screenshots(tmp_path / "absent")


def test_a_png_is_a_screenshot_only_on_evidence(tmp_path):
    samples = make_samples(tmp_path / "s", pages=1)
    page = samples.folder / "images" / "page_000.png"
    assert claim(page).kind == "screenshot"
    assert claim(samples.annotations).certainty >= 0.8
    assert claim(samples.folder).kind == "screenshots with annotations"
    Image.new("RGB", (300, 200)).save(tmp_path / "photo.png")
    assert claim(tmp_path / "photo.png").certainty == 0.2
    Image.new("RGB", (1920, 1080)).save(tmp_path / "screen.png")
    assert claim(tmp_path / "screen.png").certainty == 0.6
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert claim(tmp_path / "x.json") is None
    (tmp_path / "x.png").write_bytes(b"no")
    assert claim(tmp_path / "x.png") is None


def test_a_picture_of_flat_areas_is_likely_a_screenshot(tmp_path):
    """An interface of another size than screens have; photographs and label images are not taken for one."""
    rng = np.random.default_rng(0)
    page = Image.new("RGB", (640, 470), (240, 240, 240))
    for number in range(120):
        box = (rng.integers(0, 560), rng.integers(0, 430))
        page.paste(tuple(int(v) for v in rng.integers(0, 255, 3)), (*box, box[0] + 70, box[1] + 8 + number % 30))
    page.save(tmp_path / "page.png")
    assert claim(tmp_path / "page.png").kind == "screenshot"
    Image.fromarray(rng.integers(0, 255, (470, 640, 3), np.uint8)).save(tmp_path / "noise.png")
    assert claim(tmp_path / "noise.png").kind == "picture"
    page.convert("L").point(lambda v: v // 100).save(tmp_path / "labels.png")
    assert claim(tmp_path / "labels.png").kind == "picture"


@needs_shared
def test_the_published_clicks_on_a_real_screen():
    """SeeClick's readme gives three points on a screenshot of macOS: they are in its toolbar, in any spelling."""
    shot = open_screenshot(SHARED / "data" / "v2p" / "seeclick" / "calendar_macos.png")
    assert shot.size == (2360, 1640)
    view = View(*shot.size, pixel_ratio=2)
    expected = {"(0.17, 0.06)": (401.2, 98.4), "(0.59, 0.06)": (1392.4, 98.4), "(0.82, 0.06)": (1935.2, 98.4)}
    for text, point in expected.items():
        (position,) = FORMATS["seeclick"].read(text, view)
        assert position.image == pytest.approx(point)
        assert position.css == pytest.approx([value / 2 for value in point])
        assert FORMATS["seeclick"].write([position]) == text.replace("0.17", "0.1700").replace(
            "0.59", "0.5900"
        ).replace("0.82", "0.8200").replace("0.06", "0.0600")
    assert claim(SHARED / "data" / "v2p" / "seeclick" / "calendar_macos.png").kind == "screenshot"


@pytest.mark.parametrize("tag", [256, 257])
def test_a_tiff_without_its_size_is_one_line(tmp_path, tag):
    path = tmp_path / "a.tif"
    Image.new("RGB", (20, 10)).save(path)
    raw = path.read_bytes()
    for kind in (3, 4):  # whole numbers of two and of four bytes
        raw = raw.replace(struct.pack("<HH", tag, kind), struct.pack("<HH", 65_000, kind), 1)
    path.write_bytes(raw)
    claim(path)
    with pytest.raises(UserError) as refused:
        read_screenshot(raw, "a.tif")
    assert "\n" not in refused.value.message
