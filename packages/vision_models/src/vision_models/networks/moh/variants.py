"""MoH's networks: Jin et al., ICML 2025. TransNeXt as classifier, and the numbers of DiT (`dit.py`, which is no classifier)."""

from typing import Any

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.moh"
_BASE = {"depths": (5, 5, 23, 5), "embed_dims": (96, 192, 384, 768), "num_heads": (4, 8, 16, 32)}
_SMALL = {"depths": (5, 5, 22, 5), "embed_dims": (72, 144, 288, 576), "num_heads": (3, 6, 12, 24)}


def _variant(sizes: dict[str, Any], shared: tuple[int, ...], routed: tuple[int, ...], parameters: int) -> Variant:
    return Variant(options=sizes | {"shared": shared, "routed": routed}, parameters=parameters)


family = Family(
    slug="moh",
    network=f"{_CODE}.transnext:TransNeXt",
    layouts=f"{_CODE}.official:layouts",
    paper="MoH: Multi-Head Attention as Mixture-of-Head Attention",
    arxiv="2410.11842",
    repository="SkyworkAI/MoH",
    licence="apache-2.0",
    first_conv="patch_embeds.0.proj",
    variants={
        "moh_vit_b75": _variant(_BASE, (4, 8, 4, 5), (0, 0, 8, 16), 90_020_632),
        "moh_vit_b50": _variant(_BASE, (2, 2, 2, 4), (2, 4, 6, 8), 90_023_512),
        "moh_vit_s80": _variant(_SMALL, (3, 6, 3, 8), (0, 0, 6, 12), 49_910_548),
        "moh_vit_s75": _variant(_SMALL, (3, 6, 3, 4), (0, 0, 6, 12), 49_910_548),
    },
)


def _dit(
    hidden: int, heads: list[int], shared: list[int], routed: list[int], parameters: int, head_dim: int
) -> Variant:
    options = {"hidden_size": hidden, "num_heads": heads, "shared": shared, "routed": routed, "head_dim": head_dim}
    return Variant(options=options | {"depth": len(heads)}, parameters=parameters, input_size=(4, 32, 32))


_XL = [8] * 9 + [16] * 10 + [24] * 9
_L = [8] * 8 + [16] * 8 + [24] * 8

# Latent diffusion transformers by name, for `dit.create`; patch size 2, latents of 32 × 32 (pictures of 256 × 256).
DITS = {
    "moh_dit_xl2_90": _dit(1152, _XL, [8] * 9 + [16] * 19, [0] * 19 + [3] * 9, 675_666_464, 72),
    "moh_dit_xl2_75": _dit(1152, _XL, [8] * 9 + [10] * 10 + [14] * 9, [0] * 9 + [2] * 19, 675_689_504, 72),
    "moh_dit_l2_90": _dit(1024, _L, [8] * 8 + [16] * 16, [0] * 16 + [3] * 8, 458_512_416, 64),
    "moh_dit_l2_75": _dit(1024, _L, [8] * 16 + [12] * 8, [0] * 8 + [4] * 16, 458_528_800, 64),
    "moh_dit_b2_90": _dit(768, [12] * 12, [6] * 5 + [7] * 5 + [12] * 2, [4] * 10 + [0] * 2, 130_638_368, 64),
    "moh_dit_b2_75": _dit(768, [12] * 12, [4] * 2 + [6] * 8 + [12] * 2, [2] * 2 + [3] * 8 + [0] * 2, 130_638_368, 64),
    "moh_dit_s2_90": _dit(384, [6] * 12, [3] * 8 + [6] * 4, [2] * 8 + [0] * 4, 32_997_152, 64),
    "moh_dit_s2_75": _dit(384, [6] * 12, [2] * 2 + [3] * 8 + [6] * 2, [1] * 6 + [2] * 4 + [0] * 2, 32_998_688, 64),
}
