"""MambaOut's networks: Yu and Wang, CVPR 2025, and timm's "rw" ones. timm has its own under ``mambaout_*``."""

from typing import Any

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.mambaout"
_SLIM, _TINY, _BASE = (48, 96, 192, 288), (96, 192, 384, 576), (128, 256, 512, 768)
_RW = {"stem_mid_norm": False, "downsample": "norm_first", "layer_scale": 1e-6, "head": "norm_mlp"}


def _variant(depths: tuple[int, ...], dims: tuple[int, ...], parameters: int, **options: Any) -> Variant:
    return Variant(options={"depths": depths, "dims": dims} | options, parameters=parameters, crop_pct=1.0)


family = Family(
    slug="mambaout",
    network=f"{_CODE}.network:MambaOut",
    layouts=f"{_CODE}.official:layouts",
    paper="MambaOut: Do We Really Need Mamba for Vision?",
    arxiv="2405.07992",
    repository="yuweihao/MambaOut",
    licence="apache-2.0",
    first_conv="downsample_layers.0.conv1",
    classifier="head.fc2",
    variants={
        "suite_mambaout_femto": _variant((3, 3, 9, 3), _SLIM, 7_304_536),
        "suite_mambaout_kobe": _variant((3, 3, 15, 3), _SLIM, 9_141_208),
        "suite_mambaout_tiny": _variant((3, 3, 9, 3), _TINY, 26_545_096),
        "suite_mambaout_small": _variant((3, 4, 27, 3), _TINY, 48_488_072),
        "suite_mambaout_base": _variant((3, 4, 27, 3), _BASE, 84_813_092),
        "suite_mambaout_small_rw": _variant((3, 4, 27, 3), _TINY, 48_495_560, **_RW),
        "suite_mambaout_base_short_rw": _variant(
            (3, 3, 25, 3), _BASE, 88_827_688, expansion_ratio=3.0, conv_ratio=1.25, **_RW
        ),
        "suite_mambaout_base_tall_rw": _variant(
            (3, 4, 30, 3), _BASE, 86_481_448, expansion_ratio=2.5, conv_ratio=1.25, **_RW
        ),
        "suite_mambaout_base_wide_rw": _variant(
            (3, 4, 27, 3), _BASE, 94_448_104, expansion_ratio=3.0, conv_ratio=1.5, act="silu", **_RW
        ),
        "suite_mambaout_base_plus_rw": _variant(
            (3, 4, 30, 3), _BASE, 101_656_552, expansion_ratio=3.0, conv_ratio=1.5, act="silu", **_RW
        ),
    },
)
