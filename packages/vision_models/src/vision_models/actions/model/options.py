"""How maps become segments, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, options


@options
class DetectionOptions:
    """How maps become segments.

    Attributes:
        candidates: all cells of the map, or those between boundary peaks (the paper).
        score: of a candidate: start, end, class and regressed IoU multiplied, or the latter two.
        to_the_end: also segments that end with the sequence, which the published code never proposes.
        nms_alpha: of soft-NMS; the smaller, the harder.
        nms_low, nms_high: IoU tolerated beside a very short and beside a full-length segment.
        overlap: of neighbouring windows.
        proposals: kept of a video; of one that takes more than four windows, as many for every four (at most 2,000).
        top_labels: best labels of a video, or of a segment, that each proposal gets.
    """

    candidates: Literal["all", "peaks"] = "all"
    score: Literal["s*e*cls*reg", "cls*reg"] = "s*e*cls*reg"
    to_the_end: bool = True
    nms_alpha: Annotated[float, Above(0)] = 0.4
    nms_low: Annotated[float, Between(0, 1)] = 0.5
    nms_high: Annotated[float, Between(0, 1)] = 0.9
    overlap: Annotated[float, Between(0, 0.9)] = 0.5
    proposals: Annotated[int, AtLeast(1)] = 100
    top_labels: Annotated[int, AtLeast(1)] = 2
