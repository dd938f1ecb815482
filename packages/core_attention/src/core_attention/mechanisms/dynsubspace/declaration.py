"""What is declared of dynsubspace; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "dynsubspace",
    components_of("core_attention.mechanisms.dynsubspace.official", "AttentionLayer"),
    paper=Paper(
        "Attention-based Dynamic Subspace Learners for Medical Image Analysis",
        2022,
        repository="adigasu/Dynamic_subspace_learners",
        licence="MIT",
        components=(
            "AttentionLayer",
            "MarginLoss",
            "embedding_model",
            "reassign_clusters",
            "retrieval_metrics",
            "split_neurons",
        ),
    ),
    examples={
        "subspace-attention-layer": "core_attention.mechanisms.dynsubspace.attention_layer:example",
    },
    aliases={
        "AttentionLayer": "subspace-attention-layer",
    },
    limits={
        "subspace-attention-layer": {
            "dynamic length": "torch fixes a range of sizes for its convolution of 1,024 channels: one graph more than attention has",
        },
    },
    page="feature_maps.md",
)
