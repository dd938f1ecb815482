"""Segments as files: ActivityNet's result JSON, a table, and ELAN's annotations."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from core_runtime.errors import UserError
from core_runtime.folders import write_text
from vision_models.actions.results import Detections, Segment


def write_detections(path: Path, found: Mapping[str, Detections]) -> Path:
    """ActivityNet's result file: all segments of all videos, best first."""
    results = {name: detections.entry() for name, detections in found.items()}
    content = {"version": "attention-suite", "results": results, "external_data": {}}
    write_text(path, json.dumps(content) + "\n")
    return path


def read_detections(path: Path) -> dict[str, list[Segment]]:
    """The segments of a result file.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["results"]
        segments = {}
        for name, rows in content.items():
            segments[name] = []
            for row in rows:
                start, end = map(float, row["segment"])
                segments[name].append(Segment(start, end, str(row["label"]), float(row["score"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a file of results", "'vision-models actions evaluate' writes one") from None
    return segments


def write_table(path: Path, rows: Sequence[tuple[str, Segment]]) -> Path:
    """CSV: video, start and end in seconds, label, score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start", "end", "label", "score"])
    for video, segment in rows:
        writer.writerow([video, f"{segment.start:.3f}", f"{segment.end:.3f}", segment.label, f"{segment.score:.4f}"])
    write_text(path, text.getvalue())
    return path


def write_elan(path: Path, media: str, segments: Sequence[Segment], *, date: str = "1970-01-01T00:00:00+00:00") -> Path:
    """An annotation file of ELAN (.eaf): a tier for each label, times in milliseconds.

    Args:
        path: the file.
        media: path of the video, relative to the file.
        segments: in the order of their starts.
        date: of the document; the same input makes the same file.
    """
    root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="attention-suite", DATE=date, FORMAT="3.0", VERSION="3.0")
    header = ElementTree.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=media, RELATIVE_MEDIA_URL=media, MIME_TYPE="video/mp4")
    order = ElementTree.SubElement(root, "TIME_ORDER")
    slots: list[tuple[str, str]] = []
    number = 0
    for segment in segments:
        pair = []
        for moment in (segment.start, segment.end):
            number += 1
            pair.append(f"ts{number}")
            ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{number}", TIME_VALUE=str(round(moment * 1000)))
        slots.append((pair[0], pair[1]))
    count = 0
    # tiers of one label do not overlap in ELAN: what overlaps goes to a second one
    for name, members in _tiers(segments).items():
        tier = ElementTree.SubElement(root, "TIER", TIER_ID=name, LINGUISTIC_TYPE_REF="action")
        for place in members:
            count += 1
            holder = ElementTree.SubElement(tier, "ANNOTATION")
            first, last = slots[place]
            entry = ElementTree.SubElement(
                holder, "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{count}", TIME_SLOT_REF1=first, TIME_SLOT_REF2=last
            )
            value = ElementTree.SubElement(entry, "ANNOTATION_VALUE")
            value.text = f"{segments[place].label} {segments[place].score:.2f}"
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID="action", TIME_ALIGNABLE="true")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, '<?xml version="1.0" encoding="UTF-8"?>\n' + text + "\n")
    return path


def _tiers(segments: Sequence[Segment]) -> dict[str, list[int]]:
    tiers: dict[str, list[int]] = {}
    ends: dict[str, float] = {}
    for place, segment in enumerate(segments):
        name, copy = segment.label, 1
        while segment.start < ends.get(name, 0.0):
            copy += 1
            name = f"{segment.label} ({copy})"
        tiers.setdefault(name, []).append(place)
        ends[name] = segment.end
    return tiers


def summary_rows(found: Mapping[str, Detections]) -> list[tuple[str, Segment]]:
    """The segments worth showing of every video."""
    rows = []
    for name, detections in found.items():
        rows += [(name, segment) for segment in detections.shown()]
    return rows


def plain_segments(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"start": round(s.start, 3), "end": round(s.end, 3), "label": s.label, "score": round(s.score, 4)}
        for s in segments
    ]
