"""How MapSAM is trained: the options of ``train``. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Flag, RunOptions, Seed, options


@options
class TrainingData:
    """The training data.

    Attributes:
        labels: polygons or lines (GeoPackage, GeoJSON) or a raster, of a sheet.
        side: pixels of a sheet in one tile.
        shots: training tiles; 0 takes all.
    """

    labels: Path | None = None
    side: Annotated[int, AtLeast(16)] = 224
    shots: Annotated[int, AtLeast(0)] = 0


@options
class NetworkOptions:
    """The network and its initial weights.

    Attributes:
        sam: SAM's checkpoint (sam_vit_b_01ec64.pth).
        adapter: an adapter file to start from.
        variant: encoder without --sam, trained whole; tiny is for experiments.
        image_size: pixels of a tile in the network, a multiple of 16.
        rank: of the adapters.
        masked_attention: double, as published, or standard: one softmax.
        channel_order: bgr, as the published code reads pictures, or rgb.
        normalise: SAM's mean and deviation instead of plain [0, 1].
        init_mask_token: sam0 starts from SAM's single-mask token.
    """

    sam: Path | None = None
    adapter: Path | None = None
    variant: Literal["vit_b", "vit_l", "vit_h", "tiny"] = "vit_b"
    image_size: Annotated[int, AtLeast(32)] = 512
    rank: Annotated[int, AtLeast(1)] = 4
    masked_attention: Literal["double", "standard"] = "double"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    normalise: bool = False
    init_mask_token: Literal["new", "sam0"] = "new"


@options
class Recipe:
    """How the network is trained (AdamW, betas 0.9 and 0.999).

    Attributes:
        epochs: passes over the training tiles.
        lr: by default 0.005, as published for adapters of a SAM checkpoint; 0.001 for a network that starts from random weights.
        weight_decay: of AdamW.
        batch: tiles per step.
        warmup: steps of linear warm-up; never more than a tenth of all steps, unless --legacy.
        augment: mirror and turn the training tiles.
        legacy: the published augmentation, labels and warm-up, mistakes included.
    """

    epochs: Annotated[int, AtLeast(1)] = 160
    lr: Annotated[float | None, Above(0)] = None
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    batch: Annotated[int, AtLeast(1)] = 16
    warmup: Annotated[int, AtLeast(1)] = 250
    augment: Annotated[bool, Flag("--no-augment")] = True
    legacy: bool = False


@options
class MapRunOptions(RunOptions):
    """How a training run is carried out; the seed is the published one."""

    seed: Seed = 1234
