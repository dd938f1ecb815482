"""A self-contained HTML page: words, tables and pictures in one file that can be mailed."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core_runtime.figures import save_figure
from core_runtime.folders import write_text

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --soft: light-dark(#f5f6f8, #23262b); --accent: light-dark(#2454a6, #8ab4ff) }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1.2rem;
       background: light-dark(#fff, #17191c); color: light-dark(#1c1e21, #e6e6e6) }
h1 { font-size: 1.7rem; margin-bottom: .2rem }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: 1rem }
.lead { font-size: 1.1rem; color: var(--accent) } .warning { border-left: 4px solid #d98200; background: var(--soft); padding: .5rem .9rem }
table { border-collapse: collapse; margin: .8rem 0 } th, td { text-align: left; padding: .3rem .9rem .3rem 0;
         border-bottom: 1px solid var(--line); vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
figure { display: inline-block; margin: .6rem .8rem .6rem 0; vertical-align: top; max-width: 100% }
img, svg { max-width: 100%; height: auto; border-radius: 4px }
figcaption { font-size: .9rem; opacity: .8; max-width: 44rem }
pre { background: var(--soft); padding: .7rem .9rem; overflow-x: auto; border-radius: 4px } footer { margin-top: 3rem; font-size: .85rem; opacity: .7 }
"""


class Report:
    """Collects the parts of a page in reading order; `write` makes one HTML file without outside references.

    Example:
        >>> Report("Slide CMU-1", lead="tumour, probability 0.93").heading("Tissue").text("1 region").write("report.html")  # doctest: +SKIP
    """

    def __init__(self, title: str, *, lead: str = "") -> None:
        self.title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{html.escape(lead)}</p>')

    def heading(self, text: str) -> "Report":
        return self._add(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> "Report":
        """Paragraphs, separated by blank lines."""
        for paragraph in text.split("\n\n"):
            self._add(f"<p>{html.escape(paragraph)}</p>")
        return self

    def warning(self, text: str) -> "Report":
        return self._add(f'<p class="warning">{html.escape(text)}</p>')

    def command(self, *lines: str) -> "Report":
        """Commands to copy, one per line."""
        # html.escape, here and below: names of files and cells of tables come from outside and must not become markup
        return self._add(f"<pre>{html.escape(chr(10).join(lines))}</pre>")

    def facts(self, rows: Iterable[tuple[str, Any]]) -> "Report":
        """A two-column table of names and values."""
        return self.table(["", ""], rows, header=False)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", header: bool = True
    ) -> "Report":
        """A table; floats are shown with three decimals, None as a dash."""
        head = ""
        if header:
            titles = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
            head = f"<thead><tr>{titles}</tr></thead>"
        body = ""
        for row in rows:
            body += "<tr>" + "".join(map(_cell, row)) + "</tr>"
        above = ""
        if caption:
            above = f"<p>{html.escape(caption)}</p>"
        return self._add(f'{above}<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>')

    def picture(self, picture: Any, caption: str = "", *, width: int | None = None) -> "Report":
        """A picture: a path to PNG, JPEG or SVG, its bytes, a matplotlib figure or a PIL image. `width` in pixels on the page."""
        kind, data = encoded(picture)
        size = ""
        if width:
            size = f' width="{width}"'
        # inside the page, so that the report stays one file that can be mailed
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        image = f'<img src="{source}" alt="{html.escape(caption or self.title)}"{size}>'
        return self._add(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def link(self, path: Path | str, words: str) -> "Report":
        """A link to a file that lies beside the report (relative path)."""
        return self._add(f'<p><a href="{html.escape(Path(path).as_posix())}">{html.escape(words)}</a></p>')

    def html(self) -> str:
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head><body>{chr(10).join(self._parts)}"
            f"<footer>Made by attention-suite. For research, not for diagnosis.</footer></body></html>\n"
        )

    def write(self, path: Path | str) -> Path:
        write_text(path, self.html())
        return Path(path)

    def _add(self, part: str) -> "Report":
        self._parts.append(part)
        return self


def _cell(value: Any) -> str:
    if value is None:
        return "<td>–</td>"
    if isinstance(value, bool):  # before int, of which bool is a subclass
        return "<td>yes</td>" if value else "<td>no</td>"
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def encoded(picture: Any) -> tuple[str, bytes]:
    """A picture's MIME subtype and bytes, as `Report.picture` takes it.

    Raises:
        TypeError: it is neither a path, bytes, a matplotlib figure nor a PIL image.
        ValueError: the bytes are not PNG, JPEG or SVG.
    """
    if isinstance(picture, (str, Path)):
        picture = Path(picture).read_bytes()
    if not isinstance(picture, bytes):
        buffer = io.BytesIO()
        if hasattr(picture, "savefig"):
            save_figure(picture, buffer, bbox_inches="tight")
        elif hasattr(picture, "save"):
            picture.save(buffer, format="PNG")
        else:
            raise TypeError(f"not a picture: {type(picture).__name__}")
        picture = buffer.getvalue()
    # by its first bytes, not by its name: a browser goes by the type that the page states
    if picture.startswith(b"\x89PNG"):
        return "png", picture
    if picture.startswith(b"\xff\xd8"):
        return "jpeg", picture
    if b"<svg" in picture[:500]:
        return "svg+xml", picture
    raise ValueError("a picture is PNG, JPEG or SVG")
