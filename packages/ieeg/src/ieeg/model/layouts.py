"""The namings of MVPFormer's weights, and the options of their conversion. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Literal

from core_runtime.options import AtLeast, options

Layout = Literal["ours", "official", "braindecode"]


@options
class ConversionOptions:
    """How a checkpoint is converted.

    Attributes:
        base: the base file that belongs to a head file (LoRA and seizure head).
        to: naming to write.
        head_width: width of an attention head, for sizes that are not published.
        lora_alpha: LoRA's alpha, which is not in the files.
        merge: merge LoRA into the weights.
        ones_gain: set the encoder's norm gain to ones before loading, as the published loader of base checkpoints does.
    """

    base: Path | None = None
    to: Layout = "ours"
    head_width: Annotated[int | None, AtLeast(1)] = None
    lora_alpha: float = 16.0
    merge: bool = False
    ones_gain: bool = False
