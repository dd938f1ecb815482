"""CLAM's tissue, grid and heat map under their published names (components of `acmil`).

Readers of slides and drawing are imported where a component runs, so that `core-attention list` need not load them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core_attention.systems import Component

if TYPE_CHECKING:
    from pathology_mil.slides.options import TissueParams

_SEGMENTATION = ("seg_level", "sthresh", "mthresh", "close", "use_otsu", "a_t", "a_h", "max_n_holes", "ref_patch_size")


def _numbers(ids: Any) -> tuple[int, ...]:
    """Numbers of contours, which CLAM writes as 'none', '1,2' or a list."""
    if ids in (None, "none", ""):
        return ()
    if isinstance(ids, str):
        ids = ids.split(",")
    return tuple(map(int, ids))


def _tissue_params(config: Mapping[str, Any]) -> TissueParams:
    """CLAM's own parameters, without the adaptations to the slide that our presets make."""
    from pathology_mil.slides.options import TissueParams

    known = {key: config[key] for key in _SEGMENTATION if key in config}
    return TissueParams(
        **known,
        adapt=False,
        drop_pen=False,
        keep_ids=_numbers(config.get("keep_ids")),
        exclude_ids=_numbers(config.get("exclude_ids")),
    )


def _patch(module: None, inputs: Mapping[str, Any], *, config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """segmentTissue and process_contours: contours, holes, tile corners, and the HDF5 file that holds them."""
    import cv2

    from pathology_mil.slides.grids import contour_grid
    from pathology_mil.slides.reading import Slide
    from pathology_mil.slides.tiles import Tiles, clam_attributes, open_h5, plain_attributes, write_tiles
    from pathology_mil.slides.tissue import segment

    with Slide(inputs["slide"]) as slide:
        tissue = segment(slide, _tissue_params(config))
        level, size = config.get("patch_level", 0), config.get("patch_size", 256)
        along_x, along_y = map(int, slide.downsamples[level])  # CLAM truncates
        step = config.get("step_size", 256)
        coords = contour_grid(
            tissue,
            dimensions=slide.dimensions,
            side=(size * along_x, size * along_y),
            step=(step * along_x, step * along_y),
            contour_fn=config.get("contour_fn", "four_pt"),
            use_padding=config.get("use_padding", True),
        )
        attributes = clam_attributes(slide, patch_level=level, patch_size=size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patches.h5"
        write_tiles(path, Tiles(slide.slide_id, coords, size * along_x, size, attributes))
        with open_h5(path) as file:
            data: Any = file["coords"]
            layout = {
                "dataset": "coords",
                "dtype": str(data.dtype),
                "chunks": list(data.chunks),
                "maxshape": list(data.maxshape),
            }
            stored = plain_attributes(data.attrs)
            coords = data[:]
    del stored["save_path"]  # differs between machines
    outputs: dict[str, Any] = {
        "coords": torch.from_numpy(coords),
        "h5_attributes": stored,
        "h5_layout": layout,
    }
    for i, (outer, holes) in enumerate(zip(tissue.contours, tissue.holes, strict=True)):
        outputs[f"contour_{i}"] = torch.from_numpy(outer)
        outputs[f"contour_area_{i}"] = torch.tensor([cv2.contourArea(outer)], dtype=torch.float64)
        for j, hole in enumerate(holes):
            outputs[f"hole_{i}_{j}"] = torch.from_numpy(hole)
    return outputs


_DRAWING = (
    "blur",
    "convert_to_percentiles",
    "binarize",
    "thresh",
    "custom_downsample",
    "max_size",
    "use_holes",
    "overlap",
)


def _heatmap(module: None, inputs: Mapping[str, Any], *, config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """visHeatmap: the whole level, then rows and columns 8, 24, 40 … of it."""
    from pathology_mil.reports.heatmaps import render
    from pathology_mil.slides.reading import Slide
    from pathology_mil.slides.tissue import segment

    with Slide(inputs["slide"]) as slide:
        tissue = None
        if config.get("segment", False):
            tissue = segment(slide, _tissue_params(config))
        options = {key: config[key] for key in _DRAWING if key in config}
        picture = render(
            slide,
            inputs["coords"].numpy(),
            inputs["scores"].numpy(),
            config.get("patch_size", 256),
            vis_level=config.get("vis_level", -1),
            cmap=config.get("cmap", "coolwarm"),
            alpha=config.get("alpha", 0.4),
            blank_canvas=config.get("blank_canvas", False),
            tissue=tissue,
            **options,
        )
    return {"rgb": torch.from_numpy(picture), "rgb_sampled": torch.from_numpy(np.float32(picture[8::16, 8::16]))}


components = {"WholeSlideImage": Component(run=_patch), "visHeatmap": Component(run=_heatmap)}
