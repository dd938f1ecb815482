"""Which detector, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import AtLeast, Names, options


@options
class DetectorOptions:
    """Which detector is trained, and what stands in front of it.

    Attributes:
        enhancer: featenhancer in front of the detector, or none.
        enhancer_width: channels inside FeatEnHancer (32 as published).
        detector: fcos, retinanet or fasterrcnn on --backbone; the name of a torchvision detector (fcos_resnet50_fpn); or the folder of a
            transformers detector.
        backbone: of fcos, retinanet and fasterrcnn: a name of ours or of timm that gives a pyramid of features.
        settings: of the backbone, name=value with commas between: channels=16/32/64/128.
        channels: of the feature pyramid; for fcos a multiple of 32.
        size: shorter side that pictures are scaled to, in pixels.
        largest: longer side at most.
    """

    enhancer: Literal["featenhancer", "none"] = "featenhancer"
    enhancer_width: Annotated[int, AtLeast(4)] = 32
    detector: str = "fcos"
    backbone: str = "resnet18"
    settings: Names | None = None
    channels: Annotated[int, AtLeast(8)] = 128
    size: Annotated[int, AtLeast(32)] = 480
    largest: Annotated[int, AtLeast(32)] = 1333
