"""How VMoBA attends, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, options


@options
class VMoBAOptions:
    """How self-attention chooses blocks.

    Attributes:
        tau: share of the gates' sum that is kept; 1 or more is full attention.
        topk: keep this number of blocks instead.
        group: what competes: all blocks and queries of a head (the paper), the blocks of one query, or everything.
        chunks: blocks of the layers, in turn: auto (about 7 slabs, 40 tiles and 60 cubes, as published, of sides that divide where there are
            any), or own ones: 2/4x4/2x4x4 (frames / height x width / time x height x width).
        dense_steps: first denoising steps with full attention.
        dense_layers: first layers with full attention.
        full_below: full attention for fewer tokens; the published kernels gain from about 33,000 on a GPU, ours from about 4,000 on a CPU.
        include_self: always attend to the own block.
    """

    tau: Annotated[float, Above(0)] = 0.25
    topk: Annotated[int, AtLeast(1)] | None = None
    group: Literal["head_global", "query_head", "overall"] = "head_global"
    chunks: str = "auto"
    dense_steps: Annotated[int, AtLeast(0)] = 0
    dense_layers: Annotated[int, AtLeast(0)] = 0
    full_below: Annotated[int, AtLeast(0)] = 0
    include_self: bool = True

    def __post_init__(self) -> None:
        self.partitions()

    def partitions(self) -> tuple[float | tuple[int, ...], ...] | None:
        """The chunks that layers take in turn; None for auto.

        Raises:
            UserError: they are not understood.
        """
        if self.chunks == "auto":
            return None
        parts: list[float | tuple[int, ...]] = []
        try:
            for text in self.chunks.split("/"):
                numbers = [float(number) for number in text.split("x")]
                if len(numbers) > 3 or min(numbers) <= 0:
                    raise ValueError(text)
                if len(numbers) == 1:
                    parts.append(numbers[0])
                    continue
                whole = tuple(int(number) for number in numbers)
                if min(whole) < 1 or list(whole) != numbers:
                    raise ValueError(text)
                parts.append(whole)
        except ValueError:
            raise UserError(
                f"--chunks {self.chunks!r} is not understood",
                "write auto, or frames/height x width/time x height x width: 2/4x4/2x4x4",
            ) from None
        return tuple(parts)
