"""What is declared of dma; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "dma",
    components_of("core_attention.mechanisms.dma.official", "dynamic_mask_attention", "create_mask", "DogeAttention"),
    paper=Paper(
        "Trainable Dynamic Mask Sparse Attention",
        2025,
        repository="SmallDoges/flash-dmattn",
        licence="BSD-3",
        also="Doge in transformers, Apache-2.0",
        components=(
            "DogeAttention",
            "DogeForCausalLM",
            "create_mask",
            "dynamic_mask_attention",
        ),
    ),
    examples={
        "dma": "core_attention.mechanisms.dma.layer:example",
    },
    aliases={
        "DynamicMaskAttention": "dma",
        "DogeAttention": "dma",
    },
    page="dma.md",
    converters={
        "dma": "core_attention.mechanisms.dma.pretrained:for_layer",
    },
)
