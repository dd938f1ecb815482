"""BiFormer's networks: Zhu et al., CVPR 2023, table 1."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.biformer"
_LAST = {"topks": (1, 4, 16, -2), "side_dwconv": 5, "head_dim": 32}
_NARROW, _WIDE = (64, 128, 256, 512), (96, 192, 384, 768)


def _plain(depth: tuple[int, ...], dims: tuple[int, ...], parameters: int) -> Variant:
    options = _LAST | {"depth": depth, "embed_dim": dims, "mlp_ratios": (3, 3, 3, 3), "n_win": 7}
    return Variant(options=options, parameters=parameters)


_STL = _LAST | {"depth": (2, 2, 6, 2), "embed_dim": _WIDE, "mlp_ratios": (4, 4, 4, 4), "n_win": 7, "stem": "patches"}

family = Family(
    slug="biformer",
    network=f"{_CODE}.network:BiFormer",
    layouts=f"{_CODE}.official:layouts",
    paper="BiFormer: Vision Transformer with Bi-Level Routing Attention",
    arxiv="2303.08810",
    repository="rayleizhu/BiFormer",
    licence="mit",
    first_conv="downsample_layers.0.0",
    variants={
        "biformer_tiny": _plain((2, 2, 8, 2), _NARROW, 13_142_760),
        "biformer_small": _plain((4, 4, 18, 4), _NARROW, 25_536_232),
        "biformer_base": _plain((4, 4, 18, 4), _WIDE, 56_804_968),
        "biformer_stl": Variant(options=_STL, parameters=28_372_552),
        "biformer_stl_nchw": Variant(
            options=_STL | {"topks": (1, 4, 16, -1), "refactored": True}, parameters=28_372_552
        ),
    },
)
