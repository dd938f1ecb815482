"""Sparsifiner's networks: Wei et al., CVPR 2023, on DeiT and on LV-ViT."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.sparsifiner"
_SMALL = {"embed_dim": 384, "num_heads": 6, "reduce_n_factor": 6, "attn_keep_rate": 0.25}

family = Family(
    slug="sparsifiner",
    network=f"{_CODE}.network:Sparsifiner",
    layouts=f"{_CODE}.official:layouts",
    paper="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
    arxiv="2303.13755",
    repository="lim142857/Sparsifiner",
    licence="mit",
    first_conv="patch_embed.proj",
    levels=3,
    variants={
        "sparsifiner_s": Variant(options=_SMALL | {"depth": 12}, parameters=22_251_880),
        "sparsifiner_lvvit_s": Variant(
            options=_SMALL | {"depth": 16, "mlp_ratio": 3, "lvvit": True},
            parameters=26_420_112,
            first_conv="patch_embed.conv1",
        ),
    },
)
