"""Names in scripts that matplotlib's own font lacks."""

import io
import warnings

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager

from core_runtime.figures import _letters_of, fonts_with, save_figure

NOWHERE = "\U0010fffd"  # the last letter of private use: in no font


def letter_of_another_font() -> str:
    """A letter that some font here has and the usual one lacks."""
    usual = _letters_of(findfont("DejaVu Sans"))
    for font in fontManager.ttflist:
        if font.name.startswith("STIX"):  # comes with matplotlib
            for letter in sorted(_letters_of(font.fname) - usual):
                if letter.isprintable():
                    return letter
    raise AssertionError("no font of matplotlib's own has another letter")


def test_a_letter_of_another_font_is_drawn_by_it():
    letter = letter_of_another_font()
    figure = Figure()
    title = figure.suptitle(f"match {letter}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, io.BytesIO())
    family = title.get_fontfamily()[-1]
    assert letter in _letters_of(findfont(family))


def test_a_letter_of_no_font_is_silent_and_changes_nothing():
    assert fonts_with(frozenset(NOWHERE)) == ()
    figure = Figure()
    title = figure.suptitle(f"match {NOWHERE} 試合")
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, target)
    assert target.getvalue().startswith(b"\x89PNG")
    assert title.get_text() == f"match {NOWHERE} 試合"
