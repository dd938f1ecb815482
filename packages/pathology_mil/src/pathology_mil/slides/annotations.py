"""Regions drawn by hand or by models on a slide: ASAP and ImageScope XML, GeoJSON of QuPath and TRIDENT. Level-0 pixels."""

import gzip
import json
import uuid
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.errors
import shapely.geometry
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from pathology_mil.slides.tissue import Tissue, polygonal

SUFFIXES = (".xml", ".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
# what a damaged or foreign file raises while it is read
_BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OSError,
    EOFError,
    StopIteration,
    ElementTree.ParseError,
    zipfile.BadZipFile,
    shapely.errors.ShapelyError,
)
_AREAS = (shapely.Polygon, shapely.MultiPolygon)
_MULTIPLE = (shapely.MultiPolygon, shapely.MultiLineString, shapely.MultiPoint)
# groups of CAMELYON16's and CAMELYON17's own files, which are ASAP's
_CAMELYON = {"_0": "truth", "_1": "truth", "_2": "cut out", "metastases": "truth", "normal": "cut out"}
_IMAGESCOPE = {"0": "Polygon", "1": "Rectangle", "2": "Ellipse"}  # others are arrows and rulers
COLOURS = {"tumour": (200, 0, 0), "tissue": (0, 160, 60), "tile": (120, 120, 120)}


@dataclass(frozen=True)
class Region:
    """One drawn or computed region.

    Attributes:
        shape: a valid polygon or multipolygon (or points and lines as they were drawn), level-0 pixels.
        name: its class ("Tumor", "_0"); empty where it has none.
        kind: QuPath's object type: annotation, detection, tile or cell.
        measurements: numbers by name.
        role: "truth" or "cut out", where the format itself says so (CAMELYON's groups in ASAP files, ImageScope's negative regions).
    """

    shape: shapely.Geometry
    name: str = ""
    kind: str = "annotation"
    measurements: Mapping[str, float] = field(default_factory=dict)
    role: str = ""

    @property
    def is_area(self) -> bool:
        return isinstance(self.shape, _AREAS)


def read_annotations(path: Path | str, *, offset: tuple[float, float] = (0, 0)) -> list[Region]:
    """Reads a file of regions, whatever its format.

    Args:
        path: `.xml` (ASAP, ImageScope) or `.geojson`/`.json`, also inside `.gz` or `.zip` (QuPath, TRIDENT).
        offset: added to all coordinates; QuPath leaves the slide's `openslide.bounds-x/-y` out for some .mrxs and .ndpi files.

    Raises:
        UserError: absent, damaged, or neither of these formats.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        text = _text(path)
        regions = _xml(text, path.name) if text.lstrip().startswith("<") else _geojson(json.loads(text))
    except _BROKEN as error:
        raise UserError(
            f"{path.name}: not a readable annotation file ({type(error).__name__})",
            "ASAP or ImageScope XML and GeoJSON are read",
        ) from error
    if any(offset):
        regions = [
            replace(region, shape=shapely.transform(region.shape, lambda points: points + np.asarray(offset)))
            for region in regions
        ]
    return regions


def _text(path: Path) -> str:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            return file.read()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(("json", "xml")))
            return archive.read(name).decode("utf-8-sig")
    return path.read_text(encoding="utf-8-sig")


def _xml(text: str, name: str) -> list[Region]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{name}: XML with a document type is not read", "annotation programs write none")
    root = ElementTree.fromstring(text)
    if root.tag == "ASAP_Annotations":
        return list(_asap(root))
    if root.tag == "Annotations":
        return list(_imagescope(root))
    raise UserError(f"{name}: XML of an unknown program (<{root.tag}>)", "ASAP and ImageScope are read")


def _asap(root: ElementTree.Element) -> Iterable[Region]:
    for annotation in root.iter("Annotation"):
        points = sorted(
            (
                (float(c.attrib["Order"]), *(float(c.attrib[axis].replace(",", ".")) for axis in "XY"))
                for c in annotation.iter("Coordinate")
            ),
            key=lambda p: p[0],
        )
        group = annotation.get("PartOfGroup", "")
        name = group if group not in ("", "None") else annotation.get("Name", "")
        role = _CAMELYON.get(name, "")
        yield from _drawn([p[1:] for p in points], name, annotation.get("Type", "Polygon"), role)


def _imagescope(root: ElementTree.Element) -> Iterable[Region]:
    for annotation in root.iter("Annotation"):
        for region in annotation.iter("Region"):
            points = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")]
            role = "cut out" if region.get("NegativeROA") == "1" else ""
            kind = _IMAGESCOPE.get(region.get("Type", "0"), "Line")
            yield from _drawn(points, annotation.get("Name", ""), kind, role)


def _drawn(points: list[tuple[float, ...]], name: str, kind: str, role: str = "") -> Iterable[Region]:
    if kind == "Ellipse" and len(points) >= 2:
        yield Region(_ellipse(np.array(points)), name, role=role)
    elif kind == "Rectangle" and len(points) == 2:
        yield Region(shapely.box(*np.min(points, axis=0), *np.max(points, axis=0)), name, role=role)
    elif kind in ("Dot", "PointSet") or len(points) in (1, 2):
        if points:
            yield Region(shapely.MultiPoint(points), name)
    elif kind == "Line":
        yield Region(shapely.LineString(points), name)
    elif len(points) >= 3:
        yield Region(_valid(shapely.Polygon(points)), name, role=role)


def _ellipse(points: NDArray) -> shapely.Polygon:
    """The ellipse in the box around points: ImageScope keeps two corners of it."""
    low, high = points.min(axis=0), points.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return shapely.Polygon((low + high) / 2 + circle * (high - low) / 2)


def _valid(shape: shapely.Geometry) -> shapely.Geometry:
    """Areas are valid polygons; of a collection, its polygons count."""
    if isinstance(shape, shapely.GeometryCollection) and not isinstance(shape, _MULTIPLE):
        polygons = polygonal(shapely.union_all([_valid(part) for part in shape.geoms]))
        return shape if polygons.is_empty else polygons
    if not isinstance(shape, _AREAS) or shape.is_valid:
        return shape
    return polygonal(shapely.make_valid(shape))


def _geojson(content: Any) -> list[Region]:
    if isinstance(content, dict):
        content = content["features"] if content.get("type") == "FeatureCollection" else [content]
    regions = []
    for feature in content:
        if feature.get("type") != "Feature":
            raise ValueError("not a feature")
        if feature.get("geometry") is None:
            continue
        properties = feature.get("properties") or {}
        measurements = properties.get("measurements") or {}
        if isinstance(measurements, list):
            measurements = {m["name"]: m["value"] for m in measurements}
        regions.append(
            Region(
                _valid(shapely.geometry.shape(feature["geometry"])),
                _class_name(properties),
                str(properties.get("objectType") or properties.get("object_type") or "annotation"),
                {k: float(v) for k, v in measurements.items() if isinstance(v, (int, float))},
            )
        )
    return regions


def _class_name(properties: Mapping[str, Any]) -> str:
    classification = properties.get("classification") or {}
    if isinstance(classification, str):
        return classification
    name = classification.get("name") or ": ".join(classification.get("names") or [])
    if not name and "tissue_id" in properties:
        return "tissue"
    return str(name or properties.get("name") or "")


def overlap(shape: shapely.MultiPolygon, coords: NDArray, side: int) -> NDArray[np.float64]:
    """The share of each tile that lies inside a shape, (N,)."""
    share = np.zeros(len(coords))
    pieces = shapely.get_parts(shape)
    if len(pieces) and len(coords):
        boxes = shapely.box(coords[:, 0], coords[:, 1], coords[:, 0] + side, coords[:, 1] + side)
        box, piece = shapely.STRtree(pieces).query(boxes, predicate="intersects")
        np.add.at(share, box, shapely.area(shapely.intersection(boxes[box], pieces[piece])))
    return np.minimum(share / side**2, 1.0)


def find_annotation(folder: Path, slide_id: str) -> Path | None:
    """The annotation file of a slide in a folder: the slide's name with a known ending."""
    return next((p for s in SUFFIXES if (p := folder / f"{slide_id}{s}").is_file()), None)


def write_geojson(path: Path, regions: Iterable[Region]) -> None:
    """Writes regions for QuPath: a FeatureCollection of valid, closed polygons with class, colour and measurements."""
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, region in enumerate(regions):
            file.write((",\n" if i else "\n") + json.dumps(_feature(region, i)))
        file.write("\n]}\n")


def _feature(region: Region, number: int) -> dict[str, Any]:
    shape = _valid(region.shape)
    if isinstance(shape, shapely.MultiPolygon) and len(shape.geoms) == 1:
        shape = shape.geoms[0]
    properties: dict[str, Any] = {"objectType": region.kind}
    if region.name:
        properties["classification"] = {"name": region.name, "color": list(_colour(region.name))}
    if region.measurements:
        properties["measurements"] = {k: round(float(v), 6) for k, v in region.measurements.items()}
    name = f"{number}:{region.kind}:{region.name}:{shapely.to_wkt(shape)[:200]}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": properties,
    }


def _colour(name: str) -> tuple[int, int, int]:
    key = name.lower().replace("tumor", "tumour")
    return COLOURS.get(key, (60, 90, 200))


def tile_regions(coords: NDArray, side: int, measurements: Mapping[str, NDArray], name: str = "") -> Iterable[Region]:
    """Tiles as QuPath `tile` objects with measurements."""
    boxes = shapely.box(coords[:, 0], coords[:, 1], coords[:, 0] + side, coords[:, 1] + side)
    for i, box in enumerate(boxes):
        yield Region(box, name, "tile", {k: float(v[i]) for k, v in measurements.items()})


def tissue_regions(tissue: Tissue) -> list[Region]:
    """The pieces of tissue, holes cut out, to be looked at and mended in QuPath."""
    return [Region(piece, "Tissue") for piece in shapely.get_parts(tissue.polygons())]


def write_asap(path: Path, shape: shapely.MultiPolygon, *, group: str = "_0", hole_group: str = "_2") -> None:
    """Writes polygons as ASAP does for CAMELYON16: outlines in one group, holes as outlines of another."""
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    rings = [(p.exterior, group) for p in shape.geoms] + [(h, hole_group) for p in shape.geoms for h in p.interiors]
    for i, (ring, part) in enumerate(rings):
        annotation = ElementTree.SubElement(
            annotations, "Annotation", Name=f"Annotation {i}", Type="Polygon", PartOfGroup=part, Color="#F4FA58"
        )
        coordinates = ElementTree.SubElement(annotation, "Coordinates")
        for order, (x, y) in enumerate(list(ring.coords)[:-1]):
            ElementTree.SubElement(coordinates, "Coordinate", Order=str(order), X=f"{x:.4f}", Y=f"{y:.4f}")
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    for name, colour in ((group, "#64FE2E"), (hole_group, "#FF0000")):
        element = ElementTree.SubElement(groups, "Group", Name=name, PartOfGroup="None", Color=colour)
        ElementTree.SubElement(element, "Attributes")
    ElementTree.indent(root)
    write_text(path, '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
