"""DHVT's networks for small data: Lu et al., NeurIPS 2022."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.dhvt"


def _variant(size: int, patch: int, width: int, heads: int, classes: int, parameters: int) -> Variant:
    options = {"patch_size": patch, "embed_dim": width, "num_heads": heads, "depth": 12}
    crop = 1.0 if size == 32 else 0.875  # the small pictures are evaluated as they are
    return Variant(
        options=options, parameters=parameters, num_classes=classes, input_size=(3, size, size), crop_pct=crop
    )


family = Family(
    slug="dhvt",
    network=f"{_CODE}.network:DHVT",
    layouts=f"{_CODE}.official:layouts",
    paper="Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets",
    arxiv="2210.05958",
    repository="ArieSeirack/DHVT",
    licence="apache-2.0",
    first_conv="patch_embed.proj.0.0",
    levels=3,
    variants={
        "dhvt_tiny_cifar_patch4": _variant(32, 4, 192, 4, 100, 6_008_650),
        "dhvt_small_cifar_patch4": _variant(32, 4, 384, 8, 100, 23_425_450),
        "dhvt_tiny_cifar_patch2": _variant(32, 2, 192, 4, 100, 5_845_162),
        "dhvt_small_cifar_patch2": _variant(32, 2, 384, 8, 100, 22_766_698),
        "dhvt_tiny_domain_patch16": _variant(224, 16, 192, 4, 345, 6_105_975),
        "dhvt_small_domain_patch16": _variant(224, 16, 384, 6, 345, 23_788_431),
        "dhvt_tiny_imagenet_patch16": _variant(224, 16, 192, 3, 1000, 6_267_334),
        "dhvt_small_imagenet_patch16": _variant(224, 16, 384, 6, 1000, 24_040_606),
    },
)
