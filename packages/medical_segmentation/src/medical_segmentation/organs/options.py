"""Options that more than one verb of organs takes. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import AtLeast, Between, options


@options
class SampleOptions:
    """How much is drawn.

    Attributes:
        cases: labelled volumes.
        unlabelled: further volumes without labels; the last one is a DICOM series.
        size: voxels along x and y.
        slices: voxels along z.
    """

    cases: Annotated[int, AtLeast(2)] = 10
    unlabelled: Annotated[int, AtLeast(1)] = 2
    size: Annotated[int, AtLeast(32)] = 64
    slices: Annotated[int, AtLeast(4)] = 14


@options
class OutputOptions:
    """What is written of a prediction.

    Attributes:
        format: NIfTI on the input's grid, or a DICOM segmentation, or an RT structure set; auto: of a DICOM series a DICOM
            segmentation and NIfTI, else NIfTI. The last two need a DICOM series.
        segmentation: one bit plane per class, which every viewer shows, or one map of labels (DICOM 2024).
        deidentify: replace what names patient, visit and place in DICOM outputs.
        similar: folder that 'similar index' wrote: the images most like the slice with the most organ are drawn beside the mask.
    """

    format: Literal["auto", "nifti", "dicom-seg", "rtstruct"] = "auto"
    segmentation: Literal["binary", "labelmap"] = "binary"
    deidentify: bool = False
    similar: str | None = None


@options
class InferenceOptions:
    """How a volume is predicted.

    Attributes:
        flips: average over the mirror images along the axes of a slice (or volume).
        overlap: of neighbouring windows in three dimensions.
        batch: slices or windows at a time.
        confidence: also write the probability of each voxel's class.
        abstain: leave voxels without a class that the model is not sure enough of, at its calibrated risk; they are written as a mask of their own.
    """

    flips: bool = False
    overlap: Annotated[float, Between(0, 0.9)] = 0.25
    batch: Annotated[int, AtLeast(1)] = 4
    confidence: bool = False
    abstain: bool = False
