"""What is declared of mvpformer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "mvpformer",
    components_of("core_attention.mechanisms.mvpformer.official", "MVPFormerGQAAttention"),
    paper=Paper(
        "A Foundation Model with Multi-Variate Parallel Attention to Generate Neuronal Activity",
        2026,
        repository="IBM/multi-variate-parallel-transformer",
        licence="Apache-2.0",
        components=(
            "ClassificationHMVPFormer",
            "EventScoring",
            "HMVPFormer",
            "MVPFormerGQAAttention",
            "WaveEncoder",
        ),
    ),
    examples={
        "mvpa": "core_attention.mechanisms.mvpformer.mvpa:example",
    },
    aliases={
        "MVPFormerGQAAttention": "mvpa",
        "mvpformer": "mvpa",
    },
    page="mvpa.md",
)
