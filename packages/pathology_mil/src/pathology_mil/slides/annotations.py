"""Regions drawn by hand or by models on a slide: ASAP and ImageScope XML, GeoJSON of QuPath and TRIDENT. Level-0 pixels."""

import codecs
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
# Errors raised by reading damaged or foreign files.
_BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OSError,
    EOFError,
    ElementTree.ParseError,
    zipfile.BadZipFile,
    shapely.errors.ShapelyError,
)
_AREAS = (shapely.Polygon, shapely.MultiPolygon)
_MULTIPLE = (shapely.MultiPolygon, shapely.MultiLineString, shapely.MultiPoint)
_GEOMETRIES = ("Polygon", "MultiPolygon", "GeometryCollection", "LineString", "MultiLineString", "Point", "MultiPoint")
# Groups in CAMELYON16's and CAMELYON17's own files, which are ASAP's.
_CAMELYON = {"_0": "truth", "_1": "truth", "_2": "cut out", "metastases": "truth", "normal": "cut out"}
_IMAGESCOPE = {"0": "Polygon", "1": "Rectangle", "2": "Ellipse"}  # other types are arrows and rulers
COLOURS = {"tumour": (200, 0, 0), "tissue": (0, 160, 60), "tile": (120, 120, 120)}


@dataclass(frozen=True)
class Region:
    """One annotated or computed region.

    Attributes:
        shape: a valid polygon or multipolygon (or points and lines as annotated), level-0 pixels.
        name: its class ("Tumor", "_0"); empty if it has none.
        kind: QuPath's object type: annotation, detection, tile or cell.
        measurements: numbers by name.
        role: "truth" or "cut out", where the format itself states it (CAMELYON's groups in ASAP files, ImageScope's negative regions).
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
        if text.lstrip().startswith("<"):
            regions = _xml(text, path.name)
        else:
            regions = _geojson(json.loads(text), path.name)
    except _BROKEN as error:
        raise UserError(
            f"{path.name}: not a readable annotation file ({type(error).__name__})",
            "ASAP or ImageScope XML and GeoJSON are read",
        ) from error
    if not any(offset):
        return regions
    moved = []
    for region in regions:
        shape = shapely.transform(region.shape, lambda points: points + np.asarray(offset))
        moved.append(replace(region, shape=shape))
    return moved


def _text(path: Path) -> str:
    if path.suffix == ".gz":
        return _decoded(gzip.decompress(path.read_bytes()))
    if path.suffix != ".zip":
        return _decoded(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        # macOS puts a "._" companion of each file into the archives that it makes
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
        names = [name for name in names if name.endswith(("json", "xml"))]
        if len(names) != 1:
            raise UserError(
                f"{path.name} holds {len(names)} annotation files, expected one",
                "unpack it and give the one of the slide",
            )
        return _decoded(archive.read(names[0]))


def _decoded(raw: bytes) -> str:
    """Text as annotation programs write it: UTF-8, UTF-16 with its mark, or the code page of Windows."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def _xml(text: str, name: str) -> list[Region]:
    # Entities can expand to gigabytes ("billion laughs") or name files of this machine.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{name}: XML with a document type is not read", "annotation programs do not write it")
    root = ElementTree.fromstring(text)
    if root.tag == "ASAP_Annotations":
        return list(_asap(root))
    if root.tag == "Annotations":
        return list(_imagescope(root))
    raise UserError(f"{name}: XML of an unknown program (<{root.tag}>)", "ASAP and ImageScope are read")


def _asap(root: ElementTree.Element) -> Iterable[Region]:
    for annotation in root.iter("Annotation"):
        points = []
        for coordinate in annotation.iter("Coordinate"):
            points.append((float(coordinate.attrib["Order"]), *_position(coordinate)))
        points.sort(key=lambda point: point[0])
        outline = [(x, y) for _, x, y in points]
        name = annotation.get("PartOfGroup", "")
        if name in ("", "None"):
            name = annotation.get("Name", "")
        role = _CAMELYON.get(name, "")
        yield from _drawn(outline, name, annotation.get("Type", "Polygon"), role)


def _imagescope(root: ElementTree.Element) -> Iterable[Region]:
    for annotation in root.iter("Annotation"):
        layer = annotation.get("Name", "")
        for attribute in annotation.iterfind("./Attributes/Attribute"):
            # the name of a layer, as ImageScope itself stores it
            if attribute.get("Name") == "Description":
                layer = layer or attribute.get("Value", "")
        for region in annotation.iter("Region"):
            points = []
            for vertex in region.iter("Vertex"):
                points.append(_position(vertex))
            role = ""
            if region.get("NegativeROA") == "1":
                role = "cut out"
            kind = _IMAGESCOPE.get(region.get("Type", "0"), "Line")
            yield from _drawn(points, layer or region.get("Text", ""), kind, role)


def _position(vertex: ElementTree.Element) -> tuple[float, float]:
    """X and Y, which have decimal commas under some locales."""
    return float(vertex.attrib["X"].replace(",", ".")), float(vertex.attrib["Y"].replace(",", "."))


def _drawn(points: list[tuple[float, float]], name: str, kind: str, role: str = "") -> Iterable[Region]:
    """The region with these points; none if there are too few for its kind."""
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
    """The ellipse in the bounding box of points: ImageScope stores two corners of the box."""
    low, high = points.min(axis=0), points.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return shapely.Polygon((low + high) / 2 + circle * (high - low) / 2)


def _valid(shape: shapely.Geometry) -> shapely.Geometry:
    """Areas become valid polygons; of a collection, its polygons count."""
    if isinstance(shape, shapely.GeometryCollection) and not isinstance(shape, _MULTIPLE):
        polygons = polygonal(shapely.union_all([_valid(part) for part in shape.geoms]))
        if polygons.is_empty:
            return shape
        return polygons
    if not isinstance(shape, _AREAS) or shape.is_valid:
        return shape
    return polygonal(shapely.make_valid(shape))


def _geojson(content: Any, name: str) -> list[Region]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        if content.get("crs") is not None:
            raise UserError(
                f"{name}: its coordinates are those of a map (it names a coordinate system), not of a slide's pixels",
                "export it from the program in which the slide was annotated",
            )
        content = content["features"]
    elif isinstance(content, dict):
        if content.get("type") in _GEOMETRIES:  # bare, without a class
            content = {"type": "Feature", "geometry": content}
        content = [content]
    regions = []
    for feature in content:
        if feature.get("type") != "Feature":
            raise ValueError("not a feature")
        properties = feature.get("properties") or {}
        measurements = properties.get("measurements") or {}
        if isinstance(measurements, list):  # QuPath before 0.4
            measurements = {entry["name"]: entry["value"] for entry in measurements}
        numbers = {}
        for name, value in measurements.items():
            if isinstance(value, (int, float)):
                numbers[name] = float(value)
        shape = shapely.GeometryCollection()  # an object without a shape has no area, and is said
        if feature["geometry"] is not None:
            shape = _valid(shapely.geometry.shape(feature["geometry"]))
        kind = str(properties.get("objectType") or properties.get("object_type") or "annotation")
        regions.append(Region(shape, _class_name(properties), kind, numbers))
    return regions


def _class_name(properties: Mapping[str, Any]) -> str:
    """The class as QuPath writes it (a name, or names of nested classes), as TRIDENT does, or as plain text."""
    classification = properties.get("classification") or {}
    if isinstance(classification, str):
        return classification
    name = classification.get("name") or ": ".join(classification.get("names") or [])
    if not name and "tissue_id" in properties:
        return "tissue"
    return str(name or properties.get("name") or "")


def overlap(shape: shapely.MultiPolygon, coords: NDArray, side: int) -> NDArray[np.float64]:
    """The share of each tile that is inside a shape, (N,)."""
    share = np.zeros(len(coords))
    pieces = shapely.get_parts(shape)
    if len(pieces) and len(coords):
        boxes = shapely.box(coords[:, 0], coords[:, 1], coords[:, 0] + side, coords[:, 1] + side)
        box, piece = shapely.STRtree(pieces).query(boxes, predicate="intersects")
        # a tile may meet several pieces: `add.at` adds them up, where `share[box] +=` would keep the last
        np.add.at(share, box, shapely.area(shapely.intersection(boxes[box], pieces[piece])))
    return np.minimum(share / side**2, 1.0)


def find_annotation(folder: Path, slide_id: str) -> Path | None:
    """The annotation file of a slide in a folder: the slide's name with a known ending, or None."""
    for suffix in SUFFIXES:
        path = folder / f"{slide_id}{suffix}"
        if path.is_file():
            return path
    return None


def write_geojson(path: Path, regions: Iterable[Region]) -> None:
    """Writes regions for QuPath: a FeatureCollection of valid, closed polygons with class, colour and measurements."""
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # written one by one: a slide has up to a million tiles
        file.write('{"type": "FeatureCollection", "features": [')
        for i, region in enumerate(regions):
            separator = ",\n" if i else "\n"
            file.write(separator + json.dumps(_feature(region, i)))
        file.write("\n]}\n")


def _feature(region: Region, number: int) -> dict[str, Any]:
    shape = _valid(region.shape)
    if isinstance(shape, shapely.MultiPolygon) and len(shape.geoms) == 1:
        shape = shape.geoms[0]
    properties: dict[str, Any] = {"objectType": region.kind}
    if region.name:
        properties["classification"] = {"name": region.name, "color": list(_colour(region.name))}
    if region.measurements:
        numbers = {}
        for name, value in region.measurements.items():
            numbers[name] = round(float(value), 6)
        properties["measurements"] = numbers
    # an id of the content, not a random one, so that the same regions give the same file
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
        values = {measurement: float(column[i]) for measurement, column in measurements.items()}
        yield Region(box, name, "tile", values)


def tissue_regions(tissue: Tissue) -> list[Region]:
    """The pieces of tissue, holes cut out, to be viewed and corrected in QuPath."""
    return [Region(piece, "Tissue") for piece in shapely.get_parts(tissue.polygons())]


def write_asap(path: Path, shape: shapely.MultiPolygon, *, group: str = "_0", hole_group: str = "_2") -> None:
    """Writes polygons as ASAP does for CAMELYON16: outlines in one group, holes as outlines of another."""
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    rings = [(polygon.exterior, group) for polygon in shape.geoms]
    for polygon in shape.geoms:
        for hole in polygon.interiors:
            rings.append((hole, hole_group))
    for i, (ring, part) in enumerate(rings):
        annotation = ElementTree.SubElement(
            annotations, "Annotation", Name=f"Annotation {i}", Type="Polygon", PartOfGroup=part, Color="#F4FA58"
        )
        coordinates = ElementTree.SubElement(annotation, "Coordinates")
        # shapely repeats the first point at the end, ASAP does not
        for order, (x, y) in enumerate(list(ring.coords)[:-1]):
            ElementTree.SubElement(coordinates, "Coordinate", Order=str(order), X=f"{x:.4f}", Y=f"{y:.4f}")
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    for name, colour in ((group, "#64FE2E"), (hole_group, "#FF0000")):
        element = ElementTree.SubElement(groups, "Group", Name=name, PartOfGroup="None", Color=colour)
        ElementTree.SubElement(element, "Attributes")
    ElementTree.indent(root)
    write_text(path, '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
