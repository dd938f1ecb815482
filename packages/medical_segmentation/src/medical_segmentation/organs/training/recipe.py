"""How an organ network is trained, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Flag, Integers, Numbers, options


@options
class Recipe:
    """How the network is trained (Adam with betas 0.9 and 0.99, as published).

    Attributes:
        epochs: passes over the training slices, or over the windows of the training volumes.
        lr: learning rate; halved after `patience` epochs without a better validation Dice.
        patience: see `lr`.
        batch: slices or windows per step.
        loss: as published (cross entropy of all eight heads, guided and reconstruction terms), or MONAI's Dice with cross entropy or focal
            loss on every head; peers have one head.
        windows: of each volume per epoch, in three dimensions.
        augment: flips and rotations by up to 30°, as published, and changes of brightness.
        norms: take the statistics of batch norms anew from training patches before each validation (settled), or leave the running means
            of training, as published (running): these lag behind in short trainings.
        validate_every: epochs between validations.
    """

    epochs: Annotated[int, AtLeast(1)] = 500
    lr: Annotated[float, Above(0)] = 1e-3
    patience: Annotated[int, AtLeast(1)] = 50
    batch: Annotated[int, AtLeast(2)] = 8
    loss: Literal["published", "dice-ce", "dice-focal"] = "published"
    windows: Annotated[int, AtLeast(1)] = 4
    augment: Annotated[bool, Flag("--no-augment")] = True
    norms: Literal["settled", "running"] = "settled"
    validate_every: Annotated[int, AtLeast(1)] = 1


@options
class InputOptions:
    """What the network sees of a volume.

    Attributes:
        intensity: clip to a window and scale (CT), normalise by content (MR), or scale by the range (pictures); default: by the modality.
        window: of CT values: -160,240.
        spacing: millimetres along right, anterior, superior; 0 leaves an axis as it is; default: the median of the training volumes.
        axis: along which slices are taken; auto: the one with the thickest voxels.
        patch: sides of a slice or window in training, multiples of 16; default: the median size, at most 256 (96 in 3-D).
    """

    intensity: Literal["auto", "window", "zscore", "range"] = "auto"
    window: Numbers | None = None
    spacing: Numbers | None = None
    axis: Literal["auto", "sagittal", "coronal", "axial"] = "auto"
    patch: Integers | None = None

    def __post_init__(self) -> None:
        if self.window is not None and (len(self.window) != 2 or self.window[0] >= self.window[1]):
            raise UserError(f"--window {self.window}: a lower and a higher value are needed", "--window=-160,240")
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) < 0):
            raise UserError(f"--spacing {self.spacing}: three lengths in mm are needed", "--spacing 1,1,0")
        if self.patch is not None and any(side < 16 or side % 16 for side in self.patch):
            raise UserError(f"--patch {self.patch}: sides are multiples of 16", "--patch 192,192")


@options
class SplitOptions:
    """Who is held out.

    Attributes:
        fold: which fold is held out, counted from 0.
        folds: number of folds, by patient, where the data set has no split of its own.
        patients: table with columns case and patient, where names do not say it.
    """

    fold: Annotated[int, AtLeast(0)] = 0
    folds: Annotated[int, AtLeast(2)] = 5
    patients: str | None = None
