"""One HTML file to scroll through a volume: image, mask, truth, confidence and attention, without a server."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.folders import write_text
from medical_segmentation.organs.reports.figures import colour, grey_window, shown_slices
from medical_segmentation.volumes.volume import Volume

MOST = 120  # slices in a page; more are thinned out evenly

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body { font: 15px system-ui, sans-serif; background: #17191c; color: #e6e6e6; margin: 1rem; text-align: center }
.stack { position: relative; display: inline-block }
.stack img { position: absolute; left: 0; top: 0; image-rendering: pixelated; width: WIDTHpx; height: HEIGHTpx }
.stack { width: WIDTHpx; height: HEIGHTpx } input[type=range] { width: 24rem } label { margin: 0 .6rem }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 .9em }
footer { opacity: .7; margin-top: 1rem; font-size: .85rem }
</style></head><body><h1 style="font-size:1.2rem">TITLE</h1><div class="stack" id="stack"></div>
<p><input type="range" id="slice" min="0" value="MIDDLE" max="LAST" autofocus> <span id="where"></span></p>
<p id="layers"></p><p>KEYS</p>
<footer>The patient's right is on the left. For research, not for diagnosis. Scroll with the wheel or the arrow keys.</footer>
<script>
const layers = LAYERS, depth = DEPTH, places = PLACES;
const stack = document.getElementById("stack"), slider = document.getElementById("slice"), where = document.getElementById("where");
for (const layer of layers) {
  layer.image = document.createElement("img"); layer.image.alt = layer.name; stack.append(layer.image);
  const label = document.createElement("label"), box = document.createElement("input"), fade = document.createElement("input");
  box.type = "checkbox"; box.checked = layer.shown; fade.type = "range";
  fade.min = 0; fade.max = 1; fade.step = 0.05; fade.value = layer.opacity; fade.style.width = "5rem";
  box.onchange = fade.oninput = () => { layer.image.style.opacity = box.checked ? fade.value : 0 }; box.onchange();
  label.append(box, " " + layer.name + " ", fade); document.getElementById("layers").append(label);
}
function show() {
  const k = +slider.value;
  for (const layer of layers) layer.image.src = "data:image/png;base64," + layer.slices[k];
  where.textContent = "slice " + (places[k] + 1) + " of " + depth;
}
slider.oninput = show; stack.onwheel = event => { event.preventDefault(); slider.value = +slider.value + Math.sign(event.deltaY); show() }; show();
</script></body></html>
"""


def write_viewer(
    volume: Volume,
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
    truth: NDArray[np.uint8] | None = None,
    confidence: NDArray | None = None,
    attention: NDArray[np.float32] | None = None,
) -> Path:
    """Writes the page."""
    picture, mask, aspect = shown_slices(volume, labels)
    assert mask is not None
    depth = picture.shape[2]
    places = np.unique(np.linspace(0, depth - 1, min(depth, MOST)).round().astype(int)).tolist()
    low, high = grey_window(picture, volume.modality)
    grey = (np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    layers = [_layer("image", [_png(grey[:, :, k]) for k in places], True, 1.0)]
    layers.append(_layer("prediction", [_png(_coloured(mask[:, :, k])) for k in places], True, 0.45))
    if truth is not None:
        shown = shown_slices(volume, truth)[1]
        assert shown is not None
        layers.append(_layer("truth", [_png(_coloured(shown[:, :, k])) for k in places], False, 0.45))
    for name, values in (
        ("uncertainty", None if confidence is None else 1 - confidence.astype(np.float32)),
        ("attention", attention),
    ):
        if values is not None:
            shown = shown_slices(volume, values)[1]
            assert shown is not None
            top = max(float(shown.max()), 1e-6)
            layers.append(_layer(name, [_png(_heat(shown[:, :, k] / top)) for k in places], False, 0.8))
    height, width = picture.shape[0] * aspect, float(picture.shape[1])
    zoom = 512 / max(height, width)
    keys = "".join(
        f'<span class="key" style="background:{colour(number)}"></span>{html.escape(name)}'
        for number, name in enumerate(classes)
        if number
    )
    values = {
        "TITLE": html.escape(title),
        "WIDTH": str(round(width * zoom)),
        "HEIGHT": str(round(height * zoom)),
        "MIDDLE": str(len(places) // 2),
        "LAST": str(len(places) - 1),
        "KEYS": keys,
        "DEPTH": str(depth),
        "PLACES": json.dumps(places),
        "LAYERS": json.dumps(layers),
    }
    # in one pass: a case may be called DEPTH_1
    write_text(path, re.sub("|".join(values), lambda word: values[word[0]], _PAGE))
    return path


def _layer(name: str, slices: list[str], shown: bool, opacity: float) -> dict[str, object]:
    return {"name": name, "slices": slices, "shown": shown, "opacity": opacity}


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _coloured(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red, green, blue and opacity; the background is clear."""
    result = np.zeros((*mask.shape, 4), np.uint8)
    for number in np.unique(mask).tolist():
        if number:
            code = colour(int(number)).lstrip("#")
            result[mask == number] = [*(int(code[i : i + 2], 16) for i in (0, 2, 4)), 255]
    return result


def _heat(values: NDArray) -> NDArray[np.uint8]:
    """From clear over red to yellow."""
    share = np.clip(values, 0, 1)
    return (np.stack([np.ones_like(share), share, np.zeros_like(share), share], -1) * 255).astype(np.uint8)
