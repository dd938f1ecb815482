"""What is declared of moh; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "moh",
    components_of(
        "core_attention.mechanisms.moh.official",
        "AggregatedAttention",
        "Attention",
        "LlamaAttention",
        "LlamaDecoderLayer",
        "MoHAttention",
    ),
    paper=Paper(
        "MoH: Multi-Head Attention as Mixture-of-Head Attention",
        2025,
        repository="SkyworkAI/MoH",
        licence="Apache-2.0",
        components=(
            "AggregatedAttention",
            "Attention",
            "DiT",
            "LlamaAttention",
            "LlamaDecoderLayer",
            "MoHAttention",
            "TransNeXt",
        ),
    ),
    examples={
        "moh": "core_attention.mechanisms.moh.attention:example",
    },
    aliases={
        "MoHAttention": "moh",
        "mixture-of-head": "moh",
    },
    page="moh.md",
    converters={
        "moh": "core_attention.mechanisms.moh.pretrained:for_layer",
    },
)
