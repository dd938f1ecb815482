"""What is declared of ulsam; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "ulsam",
    components_of("core_attention.mechanisms.ulsam.official", "ULSAM"),
    paper=Paper(
        "ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks",
        2020,
        repository="Nandan91/ULSAM",
        licence="none",
        components=("ULSAM",),
    ),
    examples={
        "ulsam": "core_attention.mechanisms.ulsam.attention:example",
    },
    limits={
        "ulsam": {"one token": "batch normalisation in training has no variance of a single pixel of a single sample"},
    },
    page="ulsam.md",
    inserts={
        "ulsam": "core_attention.mechanisms.ulsam.attention:ULSAM",
    },
)
