"""What is declared of scatterbrain; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "scatterbrain",
    components_of(
        "core_attention.mechanisms.scatterbrain.official",
        "SBLocalAttention",
        "SBPerformerFeatures",
        "SBSmyrfAttention",
        "lsh_clustering",
    ),
    paper=Paper(
        "Scatterbrain: Unifying Sparse and Low-rank Attention Approximation",
        2021,
        repository="HazyResearch/fly",
        licence="Apache-2.0",
        components=(
            "SBLocalAttention",
            "SBPerformerFeatures",
            "SBSmyrfAttention",
            "T2T_ViT",
            "lsh_clustering",
        ),
    ),
    examples={
        "scatterbrain": "core_attention.mechanisms.scatterbrain.local:example",
    },
    page="scatterbrain.md",
    attentions={
        "scatterbrain": "core_attention.mechanisms.scatterbrain.pretrained:scatterbrain",
    },
)
