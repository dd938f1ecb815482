"""``vision-models video profile``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Between

MOST_TOKENS = 10_000_000  # 27 minutes of 832 × 480 at 16 frames per second


@dataclass(frozen=True)
class Profile(Outcome):
    """Tokens, operations and memory of a model at one size.

    Attributes:
        values: what was asked, the grid and its tokens.
        flops: kind of attention → operations of one forward.
        chunks: blocks of the three kinds of layers, and their number.
        memory: bytes of one layer's attention, by what holds them.
    """

    values: Mapping[str, Any]
    flops: Mapping[str, float]
    chunks: Sequence[Mapping[str, Any]]
    memory: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        return {**self.values, "flops": dict(self.flops), "chunks": list(self.chunks), "memory": dict(self.memory)}

    def lines(self) -> Iterable[str]:
        values = self.values
        time, height, width = values["grid"]
        asked = f"{values['model']} at {values['width']} × {values['height']}, {values['frames']} frames"
        yield f"{asked}: {time} × {height} × {width} = {values['tokens']:,} tokens"
        full = self.flops["full attention"]
        for kind, count in self.flops.items():
            yield f"  {kind:26} {count / 1e12:10.3f} TFLOPs  {full / count:5.2f} × fewer"
        for row in self.chunks:
            padded = f", {row['padding']:.0%} padding" if row["padding"] else ""
            yield f"  layers {row['layers']:22} blocks of {row['chunk']} tokens: {row['blocks']}{padded}"
        for name, size in self.memory.items():
            yield f"  {name:42} {size / 2**20:12,.1f} MiB per layer"
        for note in values["notes"]:
            yield f"Note: {note}"


def profile(
    model: str,
    /,
    *,
    size: str = "832x480",
    frames: Annotated[int, AtLeast(1)] = 81,
    kept: Annotated[float, Between(0.001, 1)] = 0.18,
    text: Annotated[int, AtLeast(1)] = 300,
) -> Profile:
    """Says what a Wan costs at a size with full attention and with VMoBA: tokens, operations, memory. Computes without weights.

    Example: vision-models video profile wan2.1-t2v-1.3b --size 1024x576 --frames 93

    Args:
        model: a folder of a Wan model, or wan2.1-t2v-1.3b, wan2.1-t2v-14b, wan2.2-t2v-a14b, wan2.2-ti2v-5b.
        size: width x height in pixels.
        frames: of the video.
        kept: mean share of blocks that VMoBA keeps; 0.18 in the paper.
        text: tokens of text; 300 in the paper's script.
    """
    from core_attention.mechanisms.vmoba.attention import partition
    from vision_models.video.chunks import auto_chunks
    from vision_models.video.flops import attention_memory, count_flops, grid_of

    width, height = read_size(size)
    sizes, notes = sizes_of(model)
    if min(grid_of(sizes, frames, height, width)) < 1:
        raise UserError(f"--size {size} --frames {frames} leaves no token", "give a larger size")
    if (frames - 1) % sizes.stride[0]:
        notes.append(f"{frames} frames are not {sizes.stride[0]} n + 1: the last ones are left out")
    for name, side, stride, patch in (
        ("width", width, sizes.stride[2], sizes.patch[2]),
        ("height", height, sizes.stride[1], sizes.patch[1]),
    ):
        if side % (stride * patch):
            notes.append(f"the {name} of {side} is not a multiple of {stride * patch}: what is beyond is left out")
    grid = grid_of(sizes, frames, height, width)
    tokens = grid[0] * grid[1] * grid[2]
    if tokens > MOST_TOKENS:
        raise UserError(
            f"--size {size} --frames {frames} makes {tokens:,} tokens",
            f"up to {MOST_TOKENS:,} are profiled: is it a typo?",
        )
    rows, counts = [], []
    for kind, chunk in zip(("0, 3, … (1D)", "1, 4, … (2D)", "2, 5, … (3D)"), auto_chunks(grid), strict=True):
        blocks = partition(grid, chunk)
        padded = blocks.padded[0] * blocks.padded[1] * blocks.padded[2] / tokens - 1
        shape = " × ".join(str(side) for side in blocks.cell) if blocks.cell else f"{blocks.block}"
        rows.append({"layers": kind, "chunk": shape, "blocks": blocks.blocks, "padding": padded})
        counts.append(blocks.blocks)
    flops = {
        "full attention": count_flops(sizes, tokens, "full", text=text),
        "VMoBA (published blocks)": count_flops(sizes, tokens, "vmoba", text=text, kept=kept),
        "VMoBA (these blocks)": count_flops(sizes, tokens, "vmoba", text=text, kept=kept, blocks=tuple(counts)),
        "MoBA (60 blocks, 15 kept)": count_flops(sizes, tokens, "moba", text=text),
        "SVG (64 blocks, 32 kept)": count_flops(sizes, tokens, "svg", text=text),
    }
    if tokens < 33_000:
        notes.append(
            "below about 33,000 tokens the paper's kernel is slower than fused full attention: --full-below decides"
        )
    values = {
        "model": model,
        "width": width,
        "height": height,
        "frames": frames,
        "grid": list(grid),
        "tokens": tokens,
        "notes": notes,
    }
    return Profile(values, flops, rows, attention_memory(sizes, tokens, kept=kept, blocks=max(counts)))


def read_size(text: str) -> tuple[int, int]:
    """Width and height of "832x480".

    Raises:
        UserError: it is not understood.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--size {text!r} is not understood", "write width x height: 832x480")
    return int(parts[0]), int(parts[1])


def sizes_of(model: str) -> tuple[Any, list[str]]:
    """The sizes of a named model or of a folder's.

    Raises:
        UserError: it is neither; a size in its config.json is missing or is none.
    """
    from vision_models.video.flops import PUBLISHED
    from vision_models.video.model import read_sizes, transformer_folder

    if model in PUBLISHED:
        return PUBLISHED[model], []
    folder = transformer_folder(Path(model))
    if folder is None:
        raise UserError(
            f"{model} is neither a folder of a Wan model nor one of {', '.join(PUBLISHED)}",
            "a folder saved by diffusers holds config.json of a WanTransformer3DModel",
        )
    sizes = read_sizes(folder)
    notes = []
    if sizes.channels == 3:
        notes.append("it sees the frames themselves: no VAE")
    return sizes, notes
