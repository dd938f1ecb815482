"""T2T-ViT-t-14 (Yuan et al. 2021) as in the experiments of Scatterbrain: Chen et al., NeurIPS 2021."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.scatterbrain"

family = Family(
    slug="scatterbrain",
    network=f"{_CODE}.network:T2TViT",
    layouts=f"{_CODE}.official:layouts",
    paper="Scatterbrain: Unifying Sparse and Low-rank Attention Approximation",
    arxiv="2110.15343",
    repository="HazyResearch/fly",
    licence="apache-2.0",
    levels=3,
    variants={
        "t2t_vit_t_14": Variant(options={}, parameters=21_465_422, crop_pct=0.9),
        "t2t_vit_t_14_scatterbrain": Variant(
            options={"windows": (49, 12), "features": (24, 6)}, parameters=21_465_422, crop_pct=0.9
        ),
    },
)
