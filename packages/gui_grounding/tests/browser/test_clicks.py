"""Clicks in a real Chromium land on the target in every arrangement, and never on the decoys where a wrong coordinate space would land.

The point is found by colour, not by a model: what is tested is the way from a pixel of the screenshot to the element.
"""

import http.server
import json
import shutil
import threading
from html import escape
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from core_runtime.cli import run as run_command
from core_runtime.errors import UserError
from gui_grounding.browser.chromium import NAMES, address, find_chromium, is_local, opened
from gui_grounding.browser.clicking import click, look
from gui_grounding.browser.marks import find_colour
from gui_grounding.cli import app
from gui_grounding.commands.calibrate import calibrate
from gui_grounding.commands.click import BrowserOptions
from gui_grounding.coordinates import View
from gui_grounding.results import Candidate, Grounding
from gui_grounding.samples import make_samples
from gui_grounding.screens.elements import COLOURS

PINK = (255, 0, 255)
SIZE = (500, 400)
in_chromium = pytest.mark.skipif(
    find_spec("playwright") is None or not any(map(shutil.which, NAMES)),
    reason="needs Playwright (the extra `browser`) and a Chromium of the system (Debian: apt-get install chromium)",
)


def box(name, x, y, width, height, *, colour="#eee", position="absolute"):
    style = f"position:{position};left:{x}px;top:{y}px;width:{width}px;height:{height}px;background:{colour};border:0;padding:0"
    return f'<button id="{name}" style="{style}"></button>'


def decoys(x, y, ratio):
    """Where the centre would be hit if pixels of the screenshot were taken for CSS pixels, or the other way round."""
    made = ""
    for name, factor in (("decoy-pixels", ratio), ("decoy-shrunk", 1 / ratio)):
        if ratio != 1:
            made += box(name, x * factor - 12, y * factor - 9, 24, 18)
    return made


def document(body, style=""):
    return f'<!doctype html><meta charset="utf-8"><style>body{{margin:0;background:#fff}}{style}</style><body>{body}'


TARGET = box("target", 150, 120, 40, 24, colour="#f0f")
INNER = document(box("target", 30, 20, 40, 24, colour="#f0f"))
NESTED = document(f'<iframe srcdoc="{escape(INNER)}" style="margin:15px;width:150px;height:90px"></iframe>')
FRAME = f"<iframe srcdoc='{INNER}' style='STYLE'></iframe>"
TURNED = "transform:rotate(20deg) scale(1.4);transform-origin:0 0;position:absolute;left:160px;top:60px;width:160px;height:120px"
SHADOW = f'<div id="host"></div><script>document.getElementById("host").attachShadow({{mode: "open"}}).innerHTML = `{TARGET}`</script>'
SCROLLED = box("target", 150, 1420, 40, 24, colour="#f0f") + box("decoy-scroll", 150, 120, 40, 24)
TALL = '<div style="height:3000px"></div>'
# name → what the page holds, and how far it is scrolled
PAGES = {
    "plain": (document(TARGET), 0),
    "scrolled": (document(SCROLLED + TALL), 1300),
    "iframe": (document(FRAME.replace("STYLE", "position:absolute;left:90px;top:80px;width:200px;height:150px")), 0),
    "iframe scrolled": (
        document(f'<div style="height:700px"></div>{FRAME.replace("STYLE", "width:200px;height:150px")}{TALL}'),
        600,
    ),
    "iframe transformed": (document(FRAME.replace("STYLE", TURNED)), 0),
    "iframes nested": (
        document(f'<iframe srcdoc="{escape(NESTED)}" style="margin:40px;width:260px;height:200px"></iframe>'),
        0,
    ),
    "shadow tree": (document(SHADOW), 0),
    "zoomed": (document(TARGET, "html{zoom:1.3}"), 0),
}


def target_in(seen):
    point = find_colour(seen.screenshot.image, PINK)
    assert point is not None, "the target is not on the screenshot"
    return seen.view.place(*point, "image")


@in_chromium
@pytest.mark.parametrize("ratio", [1, 1.5, 2])
def test_the_click_hits_in_every_arrangement(ratio, tmp_path):
    files = {}
    for number, (name, (html, _)) in enumerate(PAGES.items()):
        if name == "plain":
            html = html.replace("<button", decoys(170, 132, ratio) + "<button", 1)
        files[name] = tmp_path / f"page_{number}.html"
        files[name].write_text(html)
    with opened(files["plain"].as_uri(), size=SIZE, pixel_ratio=ratio) as page:
        for name, (_, scroll) in PAGES.items():
            page.page.goto(files[name].as_uri())
            if scroll:
                page.page.mouse.wheel(0, scroll)
                page.page.wait_for_function(f"() => window.scrollY >= {scroll}")
            seen = look(page)
            assert seen.screenshot.size == (SIZE[0] * ratio, SIZE[1] * ratio)
            assert seen.view.scroll[1] == scroll
            hit = click(page, target_in(seen))
            assert hit is not None, name
            assert hit.trusted, name
            assert hit.id == "target", name


@in_chromium
@pytest.mark.parametrize("ratio", [1.25, pytest.param(3, marks=pytest.mark.slow)])
def test_calibrate_lands(ratio):
    found = calibrate(browser=BrowserOptions(size=SIZE, pixel_ratio=ratio))
    assert found.landed
    assert all(row["off"] < 0.5 for row in found.rows)


class PinkFinder:
    """In place of a model: it looks for a colour."""

    def ground(self, image, instructions, asking, *, view):
        position = view.place(*find_colour(image, PINK), "image")
        candidate = Candidate(position, 1.0, 1.0, (0, 0, 1, 1))
        abstains = asking.abstain_below > 0.5
        return [Grounding(i, "click", [[candidate]], 0.5, 0.0, None, abstains, image.size, view) for i in instructions]


@pytest.fixture
def pink_model(monkeypatch):
    monkeypatch.setattr("gui_grounding.commands.predict.load", lambda *arguments: PinkFinder())


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        run_command(app, [str(a) for a in arguments])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


@in_chromium
def test_one_command_clicks_a_local_page(pink_model, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text(
        document(
            "<script>alert('hello')</script>"
            + TARGET.replace("<button", "<button onclick=\"this.style.background='#0f0'\"")
        )
    )
    out = tmp_path / "out"
    code, text, _ = call(
        capsys, "click", page, "the pink one", "--model", "m", "--out", out, "--pixel-ratio", 2, "--json"
    )
    assert code == 0
    facts = json.loads(text)
    assert facts["clicked"]
    assert facts["hit"]["id"] == "target"
    assert any("dialogue" in note for note in facts["notes"])
    assert {file.name for file in out.iterdir()} == {"before.png", "after.png", "click.json"}
    from PIL import Image

    assert find_colour(Image.open(out / "after.png").convert("RGB"), (0, 255, 0)) is not None
    code, _, err = call(capsys, "click", page, "x", "--model", "m", "--out", out)
    assert code == 2
    assert "already there" in err


@in_chromium
@pytest.mark.slow
def test_beyond_this_machine_it_only_shows_where(pink_model, tmp_path, capsys, monkeypatch):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(document(TARGET).encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        _, text, _ = call(capsys, "click", url, "x", "--model", "m", "--out", tmp_path / "a")
        assert "Clicked at" in text
        # as if the address were another machine's
        monkeypatch.setattr("gui_grounding.browser.chromium.LOOPBACK", ())
        _, text, _ = call(capsys, "click", url, "x", "--model", "m", "--out", tmp_path / "b")
        assert "Would click at" in text
        assert not (tmp_path / "b" / "after.png").exists()
        _, text, _ = call(capsys, "click", url, "x", "--model", "m", "--out", tmp_path / "c", "--yes")
        assert "Clicked at" in text
        code, text, _ = call(
            capsys, "click", url, "x", "--model", "m", "--out", tmp_path / "d", "--yes", "--abstain", 0.9
        )
        assert code == 1
        assert "nothing was clicked" in text
        server.shutdown()


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    ("html", "match"),
    [(document("<script>while (true) {}</script>"), "does not answer within 3 s"), (None, "http://127.0.0.1:9/")],
)
def test_pages_that_do_not_come_are_one_line(html, match, tmp_path):
    url = "http://127.0.0.1:9/"
    if html is not None:
        (tmp_path / "page.html").write_text(html)
        url = (tmp_path / "page.html").as_uri()
    with pytest.raises(UserError, match=match) as error, opened(url, size=SIZE, seconds=3):
        pass
    assert "\n" not in error.value.message


@in_chromium
@pytest.mark.slow
def test_a_page_that_hangs_or_crashes_later_is_one_line(tmp_path):
    def visit(seconds, later):
        with opened((tmp_path / "page.html").as_uri(), size=SIZE, seconds=seconds) as page:
            later(page)

    def hang(page):
        page.page.wait_for_timeout(300)
        look(page)

    (tmp_path / "page.html").write_text(document("<script>setTimeout(() => { while (true) {} }, 100)</script>"))
    with pytest.raises(UserError, match="does not answer"):
        visit(3, hang)
    (tmp_path / "page.html").write_text(document(TARGET))
    with pytest.raises(UserError, match=r"crash|closed"):
        visit(5, lambda page: page.page.goto("chrome://crash"))


def test_addresses(tmp_path):
    (tmp_path / "a.html").write_text("")
    assert address(str(tmp_path / "a.html")).startswith("file://")
    assert address("https://example.com/") == "https://example.com/"
    for url in ("javascript:alert(1)", "chrome://settings", str(tmp_path / "absent.html")):
        with pytest.raises(UserError, match="not a web address"):
            address(url)
    assert is_local("http://localhost:8000/x")
    assert is_local("http://[::1]/")
    assert is_local("file:///a.html")
    assert not is_local("https://example.com/")
    assert not is_local("http://localhost.example.com/")
    assert not is_local("http://127.0.0.1@example.com/")


def test_a_browser_that_is_absent_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        find_chromium(tmp_path / "chromium")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium is installed") as error:
        find_chromium(None)
    assert "--browser" in error.value.hint


def test_a_view_of_a_ratio_is_what_the_browser_says():
    assert View(1000, 800, pixel_ratio=2, scroll=(0, 30)).place(500, 400, "image").css == (250, 200)


@in_chromium
def test_samples_are_web_pages_with_the_browser_s_own_boxes(tmp_path):
    """The pixels of an element's colour reach just as far as its box."""
    samples = make_samples(tmp_path / "a", pages=3, seed=1, render="chromium")
    again = make_samples(tmp_path / "b", pages=3, seed=1, render="auto")
    assert samples.rendered == again.rendered == "chromium"
    assert samples.annotations.read_bytes() == again.annotations.read_bytes()
    for item in json.loads(samples.annotations.read_text()):
        pixels = np.asarray(Image.open(samples.folder / "images" / item["img_filename"]))
        name = next(name for name in COLOURS if f" {name} " in item["instruction"])
        left, top, right, bottom = item["bbox"]
        around = pixels[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3].astype(int)
        rows, columns = np.nonzero((np.abs(around - COLOURS[name]) < 40).all(-1))
        corner = np.array([max(0, left - 3), max(0, top - 3)] * 2)
        reach = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) + corner
        np.testing.assert_allclose(reach, item["bbox"], atol=1)


def test_samples_without_a_browser_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("gui_grounding.browser.chromium.NAMES", ())
    assert make_samples(tmp_path / "a", pages=1, render="auto").rendered == "drawn"
    with pytest.raises(UserError, match="no Chromium is installed"):
        make_samples(tmp_path / "b", pages=1, render="chromium")
    assert not (tmp_path / "b").exists()
