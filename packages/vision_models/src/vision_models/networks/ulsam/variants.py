"""MobileNetV2 with two of its blocks replaced by subspace attention: Saini et al., WACV 2020."""

from vision_models.networks.families import Family, Variant

family = Family(
    slug="ulsam",
    network="vision_models.networks.ulsam.network:mobilenetv2_ulsam",
    layouts="vision_models.networks.ulsam.network:layouts",
    paper="ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks",
    arxiv="2006.15102",
    repository="Nandan91/ULSAM",
    licence="none",
    first_conv="conv_stem",
    classifier="classifier",
    levels=5,
    variants={"mobilenetv2_ulsam_14_17": Variant(options={"replace": (14, 17)}, parameters=3_067_904)},
)
