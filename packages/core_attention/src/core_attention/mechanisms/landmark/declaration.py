"""What is declared of landmark; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "landmark",
    components_of(
        "core_attention.mechanisms.landmark.official",
        "MemLMCacheStorage",
        "fused_reference",
        "landmark_grouped_softmax",
    ),
    paper=Paper(
        "Landmark Attention: Random-Access Infinite Context Length for Transformers",
        2023,
        repository="epfml/landmark-attention",
        licence="Apache-2.0",
        components=(
            "GPTBase",
            "GPTBase_cached",
            "LlamaForCausalLM",
            "LlamaForCausalLM_generate",
            "MemLMCacheStorage",
            "fused_reference",
            "landmark_grouped_softmax",
        ),
    ),
    examples={
        "landmark": "core_attention.mechanisms.landmark.layer:example",
    },
    aliases={
        "LandmarkAttention": "landmark",
    },
    page="landmark.md",
    attentions={
        "landmark": "core_attention.mechanisms.landmark.pretrained:landmark",
    },
)
