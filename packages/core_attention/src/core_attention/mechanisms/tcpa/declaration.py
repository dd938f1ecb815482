"""TCPA (Token Coordinated Prompt Attention); its whole network is registered by the package that holds the backbones."""

from core_attention.systems import Paper, System

system = System(
    "tcpa",
    paper=Paper(
        "Token Coordinated Prompt Attention is Needed for Visual Prompting",
        2025,
        repository="zhoujiahuan1991/ICML2025-TCPA",
        licence="none",
        components=("Model_VFPT_TCPA",),
    ),
    examples={
        "tcpa": "core_attention.mechanisms.tcpa.attention:example",
    },
    page="tcpa.md",
)
