"""How slides are read and tiled, as options: the scan's own resolution, the tissue, the grid. Imports nothing heavy."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, Flag, Names, options

Layout = Literal["trident", "clam"]
ContourFn = Literal["four_pt", "four_pt_hard", "center", "basic"]
Preset = Literal["default", "biopsy", "resection", "tcga"]
TissueMethod = Literal["clam", "otsu"]


@options
class ScanOptions:
    """The resolution of a scan whose file does not state it.

    Attributes:
        slide_mpp: the scan's own resolution (µm per pixel), where the file does not state it.
        slide_mag: the scan's own objective (20, 40), where the file does not state it.
    """

    slide_mpp: Annotated[float | None, Above(0)] = None
    slide_mag: Annotated[float | None, Above(0)] = None

    def __post_init__(self) -> None:
        if self.slide_mpp is not None and self.slide_mag is not None:
            raise UserError("give the scan's resolution or its objective, not both: --slide-mpp or --slide-mag")

    @property
    def mpp(self) -> float | None:
        """The resolution in µm per pixel, from whichever was given."""
        if self.slide_mag is not None:
            return 10 / self.slide_mag  # the usual classes: 40× is 0.25 µm per pixel, 20× is 0.5
        return self.slide_mpp


@dataclass(frozen=True)
class TissueParams:
    """How tissue is found, in CLAM's terms.

    Args:
        method: "clam" or "otsu".
        seg_level: the pyramid level to work on; −1 takes the one nearest to a downsample of 64 (clam only).
        sthresh: saturation above this (0–255) is tissue; not used with `use_otsu`.
        mthresh: width of the median filter, odd.
        close: side of the square of the morphological closing; 0 for none.
        use_otsu: choose the saturation threshold by Otsu's rule.
        a_t: smallest area of a piece of tissue, in squares of `ref_patch_size` level-0 pixels.
        a_h: smallest area of a hole, likewise.
        max_n_holes: number of holes kept in a piece, the largest first.
        ref_patch_size: side of that square.
        adapt: lower a_t where it would leave no tissue, with a note. Without it a small biopsy vanishes under the default a_t.
        drop_pen: leave green, blue and black pen marks out.
        keep_ids: numbers of the contours to keep (all if empty), as drawn on the thumbnail.
        exclude_ids: numbers of the contours to leave out.
    """

    method: TissueMethod = "clam"
    seg_level: int = -1
    sthresh: int = 8
    mthresh: int = 7
    close: int = 4
    use_otsu: bool = False
    a_t: float = 100
    a_h: float = 16
    max_n_holes: int = 8
    ref_patch_size: int = 512
    adapt: bool = True
    drop_pen: bool = True
    keep_ids: tuple[int, ...] = ()
    exclude_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("a_t", "a_h"):  # 100 and 100.0 are the same request: the same key
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.method not in ("clam", "otsu"):
            raise UserError(f"unknown tissue method {self.method!r}", "choose clam or otsu")
        if self.mthresh < 1 or self.mthresh % 2 == 0:
            raise UserError(f"mthresh is the width of a median filter and must be odd, got {self.mthresh}")


# CLAM's own presets, but for `default`.
PRESETS: Mapping[str, TissueParams] = {
    "default": TissueParams(),
    "biopsy": TissueParams(sthresh=15, mthresh=11, close=2, a_t=1, a_h=1, max_n_holes=2),
    "resection": TissueParams(sthresh=15, mthresh=11, close=4, a_t=100, a_h=16, max_n_holes=8),
    "tcga": TissueParams(sthresh=8, mthresh=7, close=4, a_t=16, a_h=4, max_n_holes=8),
}


@options
class TissueOptions:
    """How tissue is found.

    Attributes:
        preset: settings of the tissue filter, as CLAM's presets.
        tissue: clam uses the saturation, otsu the grey level at 1.25×.
        keep_pen: do not leave pen marks out.
        sthresh: saturation above this is tissue (clam); default: the preset's.
        seg_level: pyramid level to look for tissue on; -1 chooses.
        min_area: smallest piece of tissue, in squares of 512 pixels; default: the preset's, lowered where it would leave no tissue.
    """

    preset: Preset = "default"
    tissue: TissueMethod = "clam"
    keep_pen: bool = False
    sthresh: Annotated[int | None, Between(0, 255)] = None
    seg_level: Annotated[int, AtLeast(-1)] = -1
    min_area: Annotated[float | None, AtLeast(0)] = None

    def params(self) -> TissueParams:
        """The preset with the user's changes; a given area is taken as it is, not adapted."""
        preset = PRESETS[self.preset]
        params = replace(preset, method=self.tissue, drop_pen=not self.keep_pen, seg_level=self.seg_level)
        if self.sthresh is not None:
            params = replace(params, sthresh=self.sthresh)
        if self.min_area is not None:
            params = replace(params, a_t=self.min_area, adapt=False)
        return params


@options
class TruthOptions:
    """The annotated regions that are the truth.

    Attributes:
        truth_class: classes that are the truth, by name; default: those with tumour in their name. Regions without a class are "(no class)".
    """

    truth_class: Names = ()


@options
class ExcludeOptions:
    """The annotated regions that are cut out.

    Attributes:
        exclude_class: classes that are cut out, beside Ignore, Exclusion and holes.
    """

    exclude_class: Names = ()


@options
class TileOptions:
    """The tiles to cut.

    Attributes:
        mag: magnification of the tiles, nominal; a slide's own is taken from its resolution by the usual classes. Default: 20.
        mpp: resolution of the tiles, true µm per pixel, instead of --mag.
        patch_size: side of a tile in pixels at that resolution.
        overlap: pixels that neighbouring tiles share.
        layout: trident lays one grid over the slide, clam one over each piece of tissue; files and folders are named likewise.
        min_tissue: share of a tile that must be tissue; at 0 it is enough that they touch (trident).
        keep_holes: count holes in the tissue as tissue (trident).
        contour_fn: when a tile belongs to tissue (clam).
        use_padding: whether tiles may extend beyond the slide (clam).
        unique: leave out tiles that repeat a corner of a neighbouring piece's grid (clam).
    """

    mag: float | None = None
    mpp: float | None = None
    patch_size: Annotated[int, AtLeast(1)] = 256
    overlap: Annotated[int, AtLeast(0)] = 0
    layout: Layout = "trident"
    min_tissue: Annotated[float, Between(0, 1)] = 0.0
    keep_holes: bool = False
    contour_fn: ContourFn = "four_pt"
    use_padding: Annotated[bool, Flag("--no-padding")] = True
    unique: Annotated[bool, Flag("--repeats")] = True

    def __post_init__(self) -> None:
        if self.mag is not None and self.mpp is not None:
            raise UserError("give the scale of the tiles either as --mag (20) or as --mpp (0.5)")
        if self.mag is None and self.mpp is None:
            object.__setattr__(self, "mag", 20.0)
        for name in ("mag", "mpp", "min_tissue"):  # 20 and 20.0 are the same request: the same key
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value))
        if self.overlap >= self.patch_size:
            raise UserError(
                f"the overlap must be at least 0 and less than the patch size {self.patch_size}, got {self.overlap}"
            )
        scale = self.mag if self.mpp is None else self.mpp
        if not (scale is not None and math.isfinite(scale) and scale > 0):
            raise UserError(f"the magnification or resolution of tiles must be positive, got {scale}")

    @property
    def resolution_name(self) -> str:
        if self.mpp is not None:
            return f"{self.mpp:g}mpp"
        return f"{self.mag:g}x"

    @property
    def folder(self) -> str:
        """The folder below the job folder that TRIDENT would use; CLAM uses the job folder itself."""
        if self.layout == "clam":
            return ""
        return f"{self.resolution_name}_{self.patch_size}px_{self.overlap}px_overlap"

    def file(self, job: Path, slide_id: str) -> Path:
        """The file of the tiles of a slide."""
        name = f"{slide_id}_patches.h5"
        if self.layout == "clam":
            name = f"{slide_id}.h5"
        return job / self.folder / "patches" / name


@dataclass(frozen=True)
class Tiling:
    """Everything that decides the tiles of a slide: the grid, and how the tissue under it is found."""

    tiles: TileOptions = field(default_factory=TileOptions)
    tissue: TissueParams = field(default_factory=TissueParams)

    def plain(self) -> dict[str, Any]:
        """A flat table that JSON can hold (`tissue.sthresh` …)."""
        plain = asdict(self.tiles)
        for name, value in asdict(self.tissue).items():
            plain[f"tissue.{name}"] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Tiling":
        """The reverse of `plain`; further entries are ignored."""
        tiles = {field.name: plain[field.name] for field in fields(TileOptions) if field.name in plain}
        tissue: dict[str, Any] = {}
        for parameter in fields(TissueParams):
            value = plain.get(f"tissue.{parameter.name}")
            if value is not None:
                tissue[parameter.name] = tuple(value) if isinstance(value, list) else value
        return cls(TileOptions(**tiles), TissueParams(**tissue))
