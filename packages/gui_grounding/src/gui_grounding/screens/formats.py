"""Which files are ours: screenshots and grounding annotations, told by their content. Imports nothing heavy."""

import json
import struct
from pathlib import Path
from typing import Any

from core_runtime.domains import Claim
from core_runtime.errors import UserError
from core_runtime.identity import is_own_output
from core_runtime.pictures import DAMAGED

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ANNOTATIONS = (".json", ".jsonl")
# widths × heights that screens, browsers and phones have, either way round
SCREENS = frozenset(
    {
        (800, 600), (1024, 768), (1280, 720), (1280, 800), (1366, 768), (1440, 900), (1536, 864), (1600, 900), (1680, 1050),
        (1920, 1080), (1920, 1200), (2048, 1536), (2160, 1440), (2256, 1504), (2360, 1640), (2560, 1080), (2560, 1440), (2560, 1600),
        (2736, 1824), (2880, 1800), (3024, 1964), (3072, 1920), (3440, 1440), (3456, 2234), (3840, 1600), (3840, 2160), (5120, 2880),
        (720, 1280), (750, 1334), (828, 1792), (1080, 1920), (1080, 2340), (1080, 2400), (1125, 2436), (1170, 2532), (1179, 2556),
        (1242, 2688), (1284, 2778), (1290, 2796), (1440, 2560), (1440, 3200), (1668, 2388), (2048, 2732),
    }
)  # fmt: skip
_BEGINNING = 1024 * 1024  # bytes of an annotation file that a claim reads
_FLAT = 0.6  # share of pixels that equal their right neighbour: photographs have a few percent, screenshots most


def claim(path: Path) -> Claim | None:
    """How sure this domain is that a file, or a folder, is its own."""
    try:
        if path.is_dir():
            return _claim_folder(path)
        suffix = path.suffix.lower()
        if suffix in ANNOTATIONS:
            return _claim_annotations(path)
        if suffix in PICTURES:
            return _claim_picture(path)
    except OSError:
        return None
    return None


def _claim_folder(path: Path) -> Claim | None:
    for file in sorted(path.glob("*.json*"))[:20] + sorted(path.glob("annotations/*.json"))[:20]:
        if file.is_file() and _claim_annotations(file):
            return Claim("screenshots with annotations", 0.8, f"{file.name} holds instructions with boxes")
    return None


def _claim_annotations(path: Path) -> Claim | None:
    kind = annotation_kind(path)
    if kind is None:
        return None
    return Claim(f"GUI grounding annotations ({kind})", 0.9, "it holds instructions with boxes on screenshots")


def annotation_kind(path: Path) -> str | None:
    """``ScreenSpot``, ``OSWorld-G`` or ``training``; None for other files."""
    first = _first_record(path)
    if not isinstance(first, dict):
        return None
    if "instruction" in first and "bbox" in first and {"img_filename", "file_name"} & first.keys():
        return "ScreenSpot"
    if "instruction" in first and "box_type" in first and "image_path" in first:
        return "OSWorld-G"
    turns = first.get("conversations")
    if "image" in first and isinstance(turns, list) and any(isinstance(t, dict) and "bbox_gt" in t for t in turns):
        return "training"
    return None


def _first_record(path: Path) -> Any:
    """The first object of a JSON list or of JSON lines; None where there is none."""
    try:
        with path.open("rb") as file:
            begin = file.read(_BEGINNING)
        text = begin.decode("utf-8-sig", "ignore").lstrip()
        if text.startswith("["):
            start = text.find("{")
            if start > 0:
                return json.JSONDecoder().raw_decode(text[start:])[0]
            return None
        first = None
        if text.startswith("{"):
            first = json.JSONDecoder().raw_decode(text)[0]
        if first is None or "images" not in first:
            return first
        return None
    except (OSError, ValueError, RecursionError):
        return None


def _claim_picture(path: Path) -> Claim | None:
    """A PNG is a screenshot only on evidence: a screen's size, or annotations beside it."""
    with path.open("rb") as file:
        head = file.read(32)
    size = None
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 24:
        size = struct.unpack(">II", head[16:24])
    beside = [
        file for file in (path.with_suffix(".json"), *path.parent.parent.glob("annotations/*.json")) if file.is_file()
    ]
    for file in beside[:5]:
        if annotation_kind(file):
            return Claim("screenshot", 0.8, f"{file.name} beside it holds instructions with boxes")
    if size is not None and (size in SCREENS or size[::-1] in SCREENS):
        return Claim("screenshot", 0.6, f"a PNG of {size[0]} × {size[1]} pixels, which is the size of a screen")
    if size is not None and "screenshot" in path.stem.lower():
        return Claim("screenshot", 0.6, "its name says so")
    if size is not None and min(size) >= 200 and _is_flat(path):
        return Claim("screenshot", 0.4, "a PNG of many colours in flat areas, as interfaces have")
    if head[:4] in (b"\x89PNG", b"RIFF", b"GIF8") or head[:3] == b"\xff\xd8\xff" or head[:2] == b"BM":
        return Claim("picture", 0.2, "any picture can be asked where something is")
    return None


def _is_flat(path: Path) -> bool:
    """Whether a colour picture consists of flat areas. Masks and label images, which have few colours, do not count."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA") or picture.width * picture.height > 40_000_000:
                return False
            middle = picture.convert("RGB").crop((0, picture.height // 4, picture.width, picture.height // 4 + 200))
    except (*DAMAGED, Image.DecompressionBombError):
        return False
    colours = middle.getcolors(middle.width * middle.height) or []
    if len(colours) < 24:
        return False
    pixels = middle.tobytes()
    width = middle.width * 3
    same = total = 0
    for row in range(0, middle.height, 4):
        line = pixels[row * width : (row + 1) * width]
        for place in range(0, width - 3, 12):
            same += line[place : place + 3] == line[place + 3 : place + 6]
            total += 1
    return same > _FLAT * total


def find_screenshots(path: Path) -> list[Path]:
    """The pictures of a folder, or the one file; what this project itself wrote there is passed over.

    Raises:
        UserError: there are none.
    """
    if not path.exists():
        raise UserError(
            f"no such file: {path}", "give a screenshot, a folder of them, or JSON lines with image and instruction"
        )
    files = [path]
    if path.is_dir():
        pictures = [file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file()]
        ours = {folder for folder in {file.parent for file in pictures} if is_own_output(folder)}
        files = sorted(file for file in pictures if file.parent not in ours)
    if not files:
        raise UserError(f"{path} holds no screenshots", f"screenshots are {', '.join(PICTURES)}")
    return files
