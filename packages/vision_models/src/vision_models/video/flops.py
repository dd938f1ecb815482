"""What a Wan costs with full attention and with VMoBA, by the accounting of the paper's script (a multiply-add counts two)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vision_models.video.chunks import CUBES, SLABS, TILES

Kind = Literal["full", "vmoba", "moba", "svg"]
TEXT = 300  # tokens of text in the paper's script
KEPT = 0.18  # mean share of the blocks that VMoBA keeps
_MOBA, _SVG = (60, 15), (64, 32)  # blocks, and those of them that a query keeps


@dataclass(frozen=True)
class WanSizes:
    """The sizes of a Wan transformer.

    Attributes:
        layers, dim, heads, ffn: of the transformer.
        patch: (time, height, width) of a token in latent pixels.
        channels: of the latents.
        stride: (time, height, width) of the VAE.
    """

    layers: int
    dim: int
    heads: int
    ffn: int
    patch: tuple[int, int, int] = (1, 2, 2)
    channels: int = 16
    stride: tuple[int, int, int] = (4, 8, 8)


PUBLISHED = {
    "wan2.1-t2v-1.3b": WanSizes(30, 1536, 12, 8960),
    "wan2.1-t2v-14b": WanSizes(40, 5120, 40, 13824),
    "wan2.2-t2v-a14b": WanSizes(40, 5120, 40, 13824),
    "wan2.2-ti2v-5b": WanSizes(30, 3072, 24, 14336, channels=48, stride=(4, 16, 16)),
}


def grid_of(sizes: WanSizes, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """The tokens (time, height, width) of a video: latents ``(frames - 1) / 4 + 1`` by ``1 / stride``, in patches."""
    time = (frames - 1) // sizes.stride[0] + 1
    latent = (time, height // sizes.stride[1], width // sizes.stride[2])
    return tuple(side // patch for side, patch in zip(latent, sizes.patch, strict=True))  # type: ignore[return-value]


def count_flops(
    sizes: WanSizes,
    tokens: int,
    kind: Kind = "full",
    *,
    text: int = TEXT,
    blocks: tuple[int, ...] = (SLABS, TILES, CUBES),
    kept: float = KEPT,
) -> float:
    """Operations of one forward.

    Of a layer with S tokens, width D, text L and inner width F: four projections ``8·S·D²``, attention, cross-attention
    ``4·S·D² + 4·L·D² + 4·S·L·D``, feed-forward ``4·S·D·F``. Full attention is ``4·S²·D``; with blocks of C tokens of which k are kept it is
    ``4·S·C·k·D`` and the gate ``2·S·D·(S // C)``.

    Args:
        sizes: of the model.
        tokens: S.
        kind: full; vmoba: three kinds of layers in turn; moba: 60 blocks of which 15 are kept; svg: 64 of which 32 are kept.
        text: L.
        blocks: of VMoBA's kinds of layers.
        kept: mean share of blocks that VMoBA keeps.
    """
    dim, rest = sizes.dim, 0.0
    rest = 8 * tokens * dim**2 + 4 * tokens * dim**2 + 4 * text * dim**2 + 4 * tokens * text * dim
    rest += 4 * tokens * dim * sizes.ffn
    if kind == "full":
        return sizes.layers * (rest + 4 * tokens**2 * dim)
    if kind == "vmoba":
        total = 0.0
        for layer in range(sizes.layers):
            count = blocks[layer % len(blocks)]
            total += rest + _blocked(tokens, dim, count, kept * count)
        return total
    count, share = _MOBA if kind == "moba" else _SVG
    return sizes.layers * (rest + _blocked(tokens, dim, count, share))


def _blocked(tokens: int, dim: int, blocks: float, kept: float) -> float:
    size = tokens / blocks
    # whole blocks, in floating point as in the paper's script
    return 2 * tokens * dim * (tokens // size) + 4 * tokens * size * kept * dim


def attention_memory(
    sizes: WanSizes, tokens: int, *, kept: float, blocks: int, bytes_each: int = 2
) -> dict[str, float]:
    """Bytes that one layer's attention holds: queries, keys, values and output; a full matrix of scores, which a fused kernel
    avoids; and VMoBA's selection, one bit per query, head and block as a byte.
    """
    held = 4.0 * tokens * sizes.dim * bytes_each
    return {
        "queries, keys, values, output": held,
        "scores of full attention, if not fused": float(sizes.heads) * tokens**2 * bytes_each,
        "scores of the kept blocks, if not fused": float(sizes.heads) * tokens**2 * kept * bytes_each,
        "selection": float(sizes.heads) * tokens * blocks,
    }
