"""What is declared of davit; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "davit",
    components_of("core_attention.mechanisms.davit.official", "ChannelBlock", "SpatialBlock"),
    paper=Paper(
        "DaViT: Dual Attention Vision Transformers",
        2022,
        repository="dingmyu/davit",
        licence="MIT",
        components=(
            "ChannelBlock",
            "DaViT",
            "DaViT_dense",
            "SpatialBlock",
        ),
    ),
    examples={
        "davit": "core_attention.mechanisms.davit.attention:example",
    },
    page="davit.md",
)
