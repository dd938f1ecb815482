"""RAVLT's networks: Fan, Huang, He, CVPR 2025."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.rala"


def _variant(
    dims: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...], scales: tuple[float, ...], parameters: int
) -> Variant:
    options = {"embed_dims": dims, "depths": depths, "num_heads": heads, "layer_scales": scales}
    return Variant(options=options, parameters=parameters)


family = Family(
    slug="rala",
    network=f"{_CODE}.network:RAVLT",
    layouts=f"{_CODE}.official:layouts",
    paper="Breaking the Low-Rank Dilemma of Linear Attention",
    arxiv="2411.07635",
    repository="qhfan/RALA",
    licence="none",
    first_conv="patch_embed.proj.0",
    variants={
        "ravlt_t": _variant((64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), (1, 1, 1, 1), 14_897_768),
        "ravlt_s": _variant((64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), (1, 1, 1, 1), 25_591_208),
        "ravlt_b": _variant((96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), (1, 1, 1e-6, 1e-6), 48_241_288),
        "ravlt_l": _variant((96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), (1e-6, 1e-6, 1e-6, 1e-6), 95_242_440),
    },
)
