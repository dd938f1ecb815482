"""What is declared of deconstructing; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "deconstructing",
    components_of("core_attention.mechanisms.deconstructing.official", "variant_cores"),
    paper=Paper(
        "Deconstructing Attention: Investigating Design Principles for Effective Language Modeling",
        2025,
        repository="HUIYINXUE/DeconAttn",
        licence="not obtainable",
        components=(
            "LanguageModel",
            "variant_cores",
        ),
    ),
    examples={
        "deconstructing-approx": "core_attention.mechanisms.deconstructing.attention:approximate_example",
        "deconstructing-nonapprox": "core_attention.mechanisms.deconstructing.attention:nonapproximate_example",
    },
    aliases={
        "DeconstructedAttention": "deconstructing-approx",
    },
    page="deconstructing.md",
)
