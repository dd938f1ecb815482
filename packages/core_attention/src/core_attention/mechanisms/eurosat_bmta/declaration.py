"""What is declared of eurosat_bmta; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "eurosat_bmta",
    components_of("core_attention.mechanisms.eurosat_bmta.official", "BalancedMultiTaskAttention", "CBAM"),
    paper=Paper(
        "Balanced Multi-Task Attention for Satellite Image Classification",
        2025,
        repository="virAditya/satellite-image-classification-eurosat",
        licence="MIT",
        components=(
            "Attention7LayerCNN",
            "Balanced12LayerCNN",
            "BalancedMultiTaskAttention",
            "BalancedResidualBlock",
            "Baseline3LayerCNN",
            "CBAM",
            "DropBlock2D",
        ),
    ),
    examples={
        "balanced": "core_attention.mechanisms.eurosat_bmta.balanced:example",
        "cbam": "core_attention.mechanisms.eurosat_bmta.cbam:example",
        "coordinate": "core_attention.mechanisms.eurosat_bmta.coordinate:example",
        "squeeze-excitation": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:example",
    },
    aliases={
        "BalancedMultiTaskAttention": "balanced",
        "CoordinateAttention": "coordinate",
        "se": "squeeze-excitation",
    },
    page="balanced.md",
    pages={
        "cbam": "feature_maps.md",
        "coordinate": "feature_maps.md",
        "squeeze-excitation": "feature_maps.md",
    },
    inserts={
        "balanced": "core_attention.mechanisms.eurosat_bmta.balanced:BalancedMultiTaskAttention",
        "cbam": "core_attention.mechanisms.eurosat_bmta.cbam:CBAM",
        "coordinate": "core_attention.mechanisms.eurosat_bmta.coordinate:CoordinateAttention",
        "eca": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:EfficientChannelAttention",
        "se": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:SqueezeExcitation",
    },
)
