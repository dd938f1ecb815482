"""The meaning of annotated regions: which classes count, which are cut out, and which say nothing. One rule for truth and for tissue.

Nothing is tumour by default. A class counts as tumour if its name says so ("Tumor", "invasive carcinoma", CAMELYON's ``_0`` and ``_1`` in its own
files) and does not say otherwise ("Non-tumor", "tumour-associated stroma"); ``--truth-class`` names others. Regions called Ignore, Exclusion or
Hole, ImageScope's negative regions and CAMELYON's ``_2`` in its own files are cut out; ``--exclude-class`` names others.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import shapely

from core_runtime.errors import UserError
from core_runtime.tables import match_name
from pathology_mil.slides.annotations import Region
from pathology_mil.slides.tissue import polygonal

NO_CLASS = "(no class)"
_COMPUTED = {"detection", "tile", "cell"}
_LEAST_EXTENT = 4  # pixels: all regions together are wider, unless their coordinates are not pixels
_CUT_OUT = {
    "ignore",
    "ignored",
    "exclude",
    "excluded",
    "exclusion",
    "exclusions",
    "hole",
    "holes",
    "artifact",
    "artefact",
}
_TUMOUR = {
    "tumor", "tumour", "tumors", "tumours", "metastasis", "metastases", "metastatic", "carcinoma", "adenocarcinoma", "cancer", "nest", "nests",
}  # fmt: skip
# A class with one of these words may be tumour: the user says.
_UNSURE = {
    "suspected",
    "suspicious",
    "suspect",
    "possible",
    "possibly",
    "probable",
    "probably",
    "unsure",
    "uncertain",
    "maybe",
    "query",
    "atypical",
}
# A class with one of these words is not tumour, whatever its other words.
_OTHERWISE = {
    "non", "no", "not", "without", "free", "negative", "neg", "normal", "benign", "healthy", "stroma", "stromal", "associated",
    "adjacent", "peritumoral", "extratumoral", "margin", "border", "edge", "bed", "necrosis", "necrotic", "lymphocytes", "infiltrate", "til", "tils",
    "outside", "around", "near", "surrounding", "beside", "distant", "background", "other", "except", "excluding", "rest",
}  # fmt: skip


@dataclass(frozen=True)
class Area:
    """The union of annotated regions.

    Attributes:
        shape: the regions that count, without those cut out.
        counted, cut_out, other: area by class, level-0 pixels²; `other` neither counts nor is cut out.
        without_area: regions by class that are points, lines or nothing.
        computed: QuPath's tiles, cells and detections beside what was annotated, by kind.
    """

    shape: shapely.MultiPolygon
    counted: Mapping[str, float]
    cut_out: Mapping[str, float]
    other: Mapping[str, float]
    without_area: Mapping[str, int] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)

    def words(self, what: str, mpp: float | None) -> str:
        """The classes with their areas: ``truth: Tumor 1.20 mm²; cut out: Ignore* 0.03 mm²``."""
        parts = [f"{what}: {_listed(self.counted, mpp) or 'none annotated'}"]
        if self.cut_out:
            parts.append(f"cut out: {_listed(self.cut_out, mpp)}")
        if self.other:
            parts.append(f"not counted: {_listed(self.other, mpp)}")
        if self.without_area:
            parts.append(f"points and lines, which have no area: {_numbered(self.without_area)}")
        if self.computed:
            parts.append(f"computed objects, not counted: {_numbered(self.computed)}")
        return "; ".join(parts)


def _listed(areas: Mapping[str, float], mpp: float | None) -> str:
    words = []
    for name, area in areas.items():
        if mpp is None:
            words.append(f"{name} {area:,.0f} px²")
        else:
            words.append(f"{name} {area * mpp**2 / 1e6:.3g} mm²")
    return ", ".join(words)


def _numbered(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def says_tumour(name: str) -> bool:
    """Whether the name of a class says that it is tumour."""
    words = _words(name)
    return bool(words & _TUMOUR) and not words & (_OTHERWISE | _UNSURE) and "?" not in name


def _says_other(name: str) -> bool:
    """Whether the name of a class says that it is something other than tumour."""
    return bool(_words(name) & _OTHERWISE)


def _words(name: str) -> set[str]:
    """Whole words, so that "nontumorous" or "nest_2" are not misread by a part of them."""
    return set(re.findall(r"[^\W\d_]+", name.casefold()))


def _is_cut_out(region: Region, names: Iterable[str]) -> bool:
    if region.role == "cut out" or _label(region) in names:
        return True
    return bool(_words(region.name) & _CUT_OUT)


def _label(region: Region) -> str:
    return region.name or NO_CLASS


def truth_area(
    regions: Sequence[Region], *, truth_class: Sequence[str] = (), exclude_class: Sequence[str] = (), where: str
) -> Area:
    """The area annotated as tumour (or as `truth_class`).

    Raises:
        UserError: a requested class does not exist, or there are classes and none states whether it is tumour.
    """
    areas, without_area, computed = _sorted_out(regions)
    classes = list(dict.fromkeys(map(_label, areas)))
    truth, excluded = _match_names(truth_class, classes, where), _match_names(exclude_class, classes, where)
    counted, cut_out, other = [], [], []
    for region in areas:
        # In this order: the user's word outweighs the file's, and that outweighs the names of classes.
        # A class that the user names as truth is truth, even if its name would cut it out.
        if _label(region) in truth and region.role != "cut out":
            counted.append(region)
        elif _is_cut_out(region, excluded):
            cut_out.append(region)
        elif not truth and (region.role == "truth" or says_tumour(region.name)):
            counted.append(region)
        else:
            other.append(region)
    drawn = {name: count for name, count in without_area.items() if name in truth or says_tumour(name)}
    if not counted and drawn:
        raise UserError(
            f"{where}: what it names as tumour has no area: points, lines or nothing of {_numbered(drawn)}",
            "annotate tumour as closed outlines",
        )
    # No tumour may be right (a normal slide), but not where the names leave it open.
    unknown = [region for region in other if not _says_other(region.name)]
    if not truth and not counted and unknown:
        names = ", ".join(dict.fromkeys(map(_label, unknown)))
        raise UserError(
            f"{where}: none of its classes is named as tumour: {names}", "--truth-class NAME says which one is"
        )
    return replace(_area(counted, cut_out, other), without_area=without_area, computed=computed)


def tissue_area(regions: Sequence[Region], *, exclude_class: Sequence[str] = (), where: str) -> Area:
    """The area annotated as tissue: every class that is not cut out."""
    areas, without_area, computed = _sorted_out(regions)
    excluded = _match_names(exclude_class, list(dict.fromkeys(map(_label, areas))), where)
    counted, cut_out = [], []
    for region in areas:
        if _is_cut_out(region, excluded):
            cut_out.append(region)
        else:
            counted.append(region)
    return replace(_area(counted, cut_out, []), without_area=without_area, computed=computed)


def _sorted_out(regions: Sequence[Region]) -> tuple[list[Region], dict[str, int], dict[str, int]]:
    """The regions that have an area; by class how many have none; by kind the computed objects beside them.

    QuPath exports tiles, cells and detections with what was annotated. They carry classes, too, but are a program's answer: they count only in
    a file that holds nothing else.
    """
    annotated = [region for region in regions if region.kind not in _COMPUTED]
    computed = [region for region in regions if region.kind in _COMPUTED]
    if not any(region.is_area for region in annotated):
        annotated, computed = list(regions), []
    without_area = Counter(_label(region) for region in annotated if not region.is_area)
    areas = [region for region in annotated if region.is_area]
    return areas, dict(without_area), dict(Counter(region.kind for region in computed))


def _match_names(names: Sequence[str], classes: Sequence[str], where: str) -> set[str]:
    """The classes of a file that the user's names stand for.

    Raises:
        UserError: a name stands for no class.
    """
    matched = set()
    for name in names:
        match = match_name(name, classes)
        if match is None:
            raise UserError(f"{where}: there is no class {name!r}", f"its classes are {', '.join(map(repr, classes))}")
        matched.add(match)
    return matched


def _area(counted: Sequence[Region], cut_out: Sequence[Region], other: Sequence[Region]) -> Area:
    # unions first: regions drawn twice, or overlapping, must not count twice
    holes = shapely.union_all([region.shape for region in cut_out])
    shape = shapely.union_all([region.shape for region in counted]).difference(holes)
    return Area(polygonal(shape), _by_class(counted), _by_class(cut_out), _by_class(other))


def _by_class(regions: Sequence[Region]) -> dict[str, float]:
    shapes: dict[str, list[shapely.Geometry]] = {}
    for region in regions:
        shapes.setdefault(_label(region), []).append(region.shape)
    return {name: shapely.union_all(of_class).area for name, of_class in shapes.items()}


def outside(regions: Sequence[Region], dimensions: tuple[int, int], where: str) -> str:
    """The share of the regions outside the slide, in words; empty if there is none.

    Raises:
        UserError: all regions are outside.
    """
    areas = [region.shape for region in regions if region.is_area]
    drawn = shapely.union_all(areas).area
    if not drawn:
        return ""
    left, top, right, bottom = shapely.total_bounds(shapely.MultiPolygon(shapely.get_parts(areas).tolist()))
    if max(right - left, bottom - top) < _LEAST_EXTENT:
        raise UserError(
            f"{where}: all its regions lie within {max(right - left, bottom - top):.2g} pixels",
            "coordinates are pixels of the full resolution, not shares of the slide or millimetres",
        )
    inside = shapely.union_all(areas).intersection(shapely.box(0, 0, *dimensions)).area
    size = f"{dimensions[0]} × {dimensions[1]}"
    if not inside:
        raise UserError(
            f"{where}: its regions are outside the slide ({size})",
            "the file belongs to another slide, or its coordinates are those of another level",
        )
    share = 1 - inside / drawn
    if share <= 0.02:  # outlines often go a few pixels beyond the slide
        return ""
    return f"{share:.0%} of the regions in {where} are outside the slide ({size})"
