"""What is declared of rala; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "rala",
    components_of("core_attention.mechanisms.rala.official", "GateLinearAttentionNoSilu", "VanillaSelfAttention"),
    paper=Paper(
        "Breaking the Low-Rank Dilemma of Linear Attention",
        2025,
        repository="qhfan/RALA",
        licence="none",
        components=(
            "GateLinearAttentionNoSilu",
            "RAVLT",
            "RAVLT_dense",
            "VanillaSelfAttention",
        ),
    ),
    examples={
        "rala": "core_attention.mechanisms.rala.attention:example",
    },
    aliases={
        "GateLinearAttentionNoSilu": "rala",
    },
    page="rala.md",
)
