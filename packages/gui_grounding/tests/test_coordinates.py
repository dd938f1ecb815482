"""Coordinates: every conversion can be undone exactly, for ratios, crops, scrolls and monitors of all kinds."""

import random
from fractions import Fraction

import pytest

from core_runtime.errors import UserError
from gui_grounding.adapters import FORMATS, format_named
from gui_grounding.coordinates import SPACES, View, position_from


def random_view(chance: random.Random) -> View:
    return View(
        width=chance.randint(1, 7680),
        height=chance.randint(1, 4320),
        pixel_ratio=chance.choice([1, 1.25, 1.3333, 1.5, 2, 3, chance.uniform(0.3, 4)]),
        crop=(chance.randint(0, 3000), chance.uniform(0, 3000)),
        scroll=(chance.uniform(0, 1e5), chance.randint(0, 100000)),
        origin=(chance.randint(-4000, 4000), chance.uniform(-4000, 4000)),
    )


def test_what_goes_in_as_a_float_comes_out_as_the_same_float():
    chance = random.Random(0)
    for _ in range(300):
        view = random_view(chance)
        for space in SPACES:
            x, y = chance.uniform(-10, 5000), chance.uniform(-10, 5000)
            position = view.place(x, y, space)
            assert position.to(space) == (x, y)
            for other in SPACES:
                assert view.place(*position.exact(other), other) == position


def test_the_spaces_mean_what_the_page_says():
    view = View(2560, 1440, pixel_ratio=2, crop=(100, 50), scroll=(0, 600), origin=(-1920, 30))
    position = view.place(0.5, 0.25)
    assert position.image == (1280, 360)
    assert position.css == ((1280 + 100) / 2, (360 + 50) / 2)
    assert position.page == (690, 805)
    assert position.screen == (690 - 1920, 205 + 30)
    assert position.pixel == (1280, 360)
    assert position_from(position.facts(), view) == position


def test_a_part_of_a_screenshot_shows_the_same_places():
    chance = random.Random(1)
    for _ in range(100):
        view = random_view(chance)
        part = view.cut(chance.randint(0, 50), chance.randint(0, 50), chance.randint(1, 60), chance.randint(1, 60))
        position = part.place(chance.random(), chance.random())
        assert position.seen_from(view).exact("screen") == position.exact("screen")
        assert position.seen_from(view).seen_from(part) == position


def test_the_last_pixel_holds_the_edge():
    view = View(10, 20)
    assert view.place(1, 1).pixel == (9, 19)
    assert view.place(-0.1, 0).pixel == (0, 0)


@pytest.mark.parametrize(
    "view",
    [
        {"width": 0, "height": 10},
        {"width": 10, "height": 10, "pixel_ratio": 0},
        {"width": 10, "height": 10, "pixel_ratio": float("nan")},
        {"width": 10, "height": 10, "origin": (float("inf"), 0)},
    ],
)
def test_impossible_views_are_refused(view):
    with pytest.raises(UserError):
        View(**view)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_read_what_they_write(name):
    chance = random.Random(2)
    each = format_named(name)
    for _ in range(100):
        view = random_view(chance)
        position = view.place(chance.random(), chance.random())
        (back,) = each.read(each.write([position]), view)
        unit = Fraction(1, each.units or 1)
        for before, after in zip(position.exact(each.space), back.exact(each.space), strict=True):
            if each.whole:
                assert abs(before - after) <= unit / 2
            elif each.space == "normalised":
                assert abs(before - after) <= Fraction(1, 10_000)
            else:
                assert float(before) == float(after)


def test_formats_as_their_tools_spell_them():
    view = View(2000, 1000, pixel_ratio=2, origin=(10, 0))
    position = view.place(0.17, 0.06)
    expected = {
        "pyautogui": "pyautogui.click(x=180, y=30)",
        "playwright": "await page.mouse.click(170.0, 30.0)",
        "ui-tars": "click(point='<point>170 60</point>')",
        "ui-tars-absolute": "click(point='<point>340 60</point>')",
        "os-atlas": "CLICK <point>[[170, 60]]</point>",
        "seeclick": "(0.1700, 0.0600)",
        "anthropic": '{"action": "left_click", "coordinate": [340, 60]}',
        "openai": '{"type": "click", "button": "left", "x": 340, "y": 60}',
    }
    assert {name: each.write([position]) for name, each in FORMATS.items()} == expected


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.drag])
def test_drags_read_back(name):
    view = View(1000, 500)
    ends = [view.place(0.1, 0.2), view.place(0.9, 0.6)]
    each = FORMATS[name]
    back = each.read(each.write(ends), view)
    assert [position.image for position in back] == [position.image for position in ends]


def test_what_is_not_an_action_is_refused():
    with pytest.raises(UserError, match="has no drag"):
        FORMATS["seeclick"].write([View(9, 9).place(0, 0)] * 2)
    with pytest.raises(UserError, match="is not a click"):
        FORMATS["pyautogui"].read("scroll(3)", View(9, 9))
    with pytest.raises(UserError, match="no format is called"):
        format_named("xdotool")
