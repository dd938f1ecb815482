"""Figures of matplotlib as files: names in any script that a font of the system can show. Needs matplotlib.

Matplotlib's own font has Latin, Greek and Cyrillic letters; of a name in another script it draws boxes and warns for each letter. Where no font
of the system has a letter, the box stays, without the warnings: reports and JSON hold the name itself.
"""

import warnings
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

MISSING = r"Glyph \d+ .* missing from"  # how matplotlib's warning begins


def save_figure(
    figure: "Figure", target: "Path | IO[bytes]", *, kind: str = "png", dpi: int = 110, **more: Any
) -> None:
    """Writes a figure.

    Args:
        figure: whose texts get further fonts where their own lacks a letter.
        target: the file.
        kind: png, jpg, svg or pdf.
        dpi: pixels per inch.
        more: of matplotlib's `savefig`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING)
        _add_fonts(figure)
        figure.savefig(target, format=kind, dpi=dpi, **more)


def _add_fonts(figure: "Figure") -> None:
    """Names fonts behind the usual one, for each text with letters that this one lacks."""
    from matplotlib.font_manager import findfont
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        letters = {letter for letter in text.get_text() if letter.isprintable() and not letter.isspace()}
        if all(letter.isascii() for letter in letters):
            continue
        lacking = letters - _letters_of(findfont(text.get_fontproperties()))
        families = fonts_with(frozenset(lacking))
        if families:
            text.set_fontfamily([*text.get_fontfamily(), *families])


@lru_cache(256)
def fonts_with(letters: frozenset[str]) -> tuple[str, ...]:
    """Families of fonts that together have as many of the letters as any do; none for no letter."""
    from matplotlib.font_manager import fontManager

    families: list[str] = []
    lacking = set(letters)
    for font in fontManager.ttflist:
        if not lacking:
            break
        if font.name.startswith("Last Resort"):  # has a box for each letter there is
            continue
        found = lacking & _letters_of(font.fname)
        if found and font.name not in families:
            families.append(font.name)
            lacking -= found
    return tuple(families)


@lru_cache(1024)
def _letters_of(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # listed, but gone or damaged
        return frozenset()
