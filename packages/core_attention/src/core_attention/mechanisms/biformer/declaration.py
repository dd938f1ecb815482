"""What is declared of biformer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "biformer",
    components_of(
        "core_attention.mechanisms.biformer.official", "BiLevelRoutingAttention", "nchwBRA", "AttentionLePE", "Block"
    ),
    paper=Paper(
        "BiFormer: Vision Transformer with Bi-Level Routing Attention",
        2023,
        repository="rayleizhu/BiFormer",
        licence="MIT",
        components=(
            "AttentionLePE",
            "BiFormer",
            "BiFormerSTL",
            "BiLevelRoutingAttention",
            "Block",
            "nchwBRA",
            "nchwBiFormerSTL",
        ),
    ),
    examples={
        "biformer": "core_attention.mechanisms.biformer.attention:example",
    },
    aliases={
        "BiLevelRoutingAttention": "biformer",
        "BRA": "biformer",
    },
    page="biformer.md",
    converters={
        "biformer": "core_attention.mechanisms.biformer.pretrained:for_layer",
    },
)
