"""The page of a video: it plays, and so does every segment in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from core_runtime.figures import save_figure
from core_runtime.folders import write_text
from vision_models.actions.reports.timeline import colour_of
from vision_models.actions.results import Detections, Segment

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --soft: light-dark(#f3f4f7, #23262b) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem;
       background: light-dark(#fff, #17191c); color: light-dark(#1c1e21, #e6e6e6) }
h1 { font-size: 1.5rem; margin: .2rem 0 } .lead { opacity: .8 } img { max-width: 100%; border-radius: 4px; background: #fff }
.stage { display: flex; gap: 1.2rem; flex-wrap: wrap; align-items: flex-start } video { width: 34rem; max-width: 100%; background: #000; border-radius: 4px }
.list { flex: 1; min-width: 18rem; max-height: 27rem; overflow-y: auto } button { font: inherit; display: flex; gap: .7rem; width: 100%;
       align-items: center; text-align: left; padding: .35rem .6rem; margin: 0 0 .3rem; border: 1px solid var(--line); background: var(--soft);
       color: inherit; border-radius: 4px; cursor: pointer } button.now { outline: 2px solid #d98200 }
.mark { width: .8rem; height: .8rem; border-radius: 2px; flex: none } .score { margin-left: auto; font-variant-numeric: tabular-nums; opacity: .75 }
.bar { position: relative; height: 1.5rem; background: var(--soft); border-radius: 4px; margin: .9rem 0; cursor: pointer }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 2px; opacity: .85 }
.bar b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #d98200 }
footer { margin-top: 2rem; font-size: .85rem; opacity: .7 }
"""
_SCRIPT = """
const video = document.querySelector('video'), needle = document.querySelector('.bar b'), bar = document.querySelector('.bar');
let until = null;
for (const button of document.querySelectorAll('button')) button.onclick = () => {
  video.currentTime = Number(button.dataset.start); until = Number(button.dataset.end); video.play();
};
bar.onclick = event => { until = null; video.currentTime = (event.offsetX / bar.clientWidth) * LENGTH; };
video.ontimeupdate = () => {
  if (until !== null && video.currentTime >= until) { video.pause(); until = null; }
  needle.style.left = 100 * video.currentTime / LENGTH + '%';
  for (const button of document.querySelectorAll('button'))
    button.classList.toggle('now', video.currentTime >= button.dataset.start && video.currentTime < button.dataset.end);
};
video.onerror = () => { document.querySelector('.lead').textContent += ' This browser cannot play the file itself.'; };
"""


def write_page(path: Path, found: Detections, media: str, timeline: Figure, labels: Sequence[str], lead: str) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        found: the detections; those worth showing are listed.
        media: path of the video, relative to the page.
        timeline: picture of all.
        labels: that have a colour.
        lead: a sentence below the title.
    """
    picture = io.BytesIO()
    save_figure(timeline, picture)
    image = base64.b64encode(picture.getvalue()).decode()
    shown = found.shown()
    rows, spans = "", ""
    for segment in shown:
        rows += _button(segment, colour_of(segment.label, labels))
        left, width = 100 * segment.start / found.seconds, 100 * (segment.end - segment.start) / found.seconds
        spans += f'<i style="left:{left:.3f}%;width:{width:.3f}%;background:{colour_of(segment.label, labels)}"></i>'
    title = html.escape(found.video)
    script = _SCRIPT.replace("LENGTH", f"{found.seconds:.3f}")
    nothing = "" if shown else "<p>No segment reaches the threshold.</p>"
    write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="lead">{html.escape(lead)}</p><div class="stage"><video src="{html.escape(quote(media))}" controls preload="metadata"></video>'
        f'<div class="list">{nothing}{rows}</div></div><div class="bar">{spans}<b></b></div>'
        f'<img alt="timeline of {title}" src="data:image/png;base64,{image}">'
        f"<footer>Made by attention-suite. Click a segment to play it; click the bar to go there. The video stays where it is.</footer>"
        f"<script>{script}</script></body></html>\n",
    )
    return path


def _button(segment: Segment, colour: str) -> str:
    times = f"{_clock(segment.start)} – {_clock(segment.end)}"
    return (
        f'<button data-start="{segment.start:.3f}" data-end="{segment.end:.3f}"><span class="mark" style="background:{colour}"></span>'
        f'<span>{html.escape(segment.label)}</span><span>{times}</span><span class="score">{segment.score:.2f}</span></button>'
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:04.1f}"
    return f"{minutes}:{rest:04.1f}"
