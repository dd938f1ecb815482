"""What is declared of msdual; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "msdual",
    components_of("core_attention.mechanisms.msdual.official", "PAM_Module", "CAM_Module", "PAM_CAM_Layer"),
    paper=Paper(
        "Multi-scale Self-guided Attention for Medical Image Segmentation",
        2020,
        repository="sinAshish/Multi-Scale-Attention",
        licence="none",
        components=(
            "CAM_Module",
            "DAF_stack",
            "MultiConv",
            "PAM_CAM_Layer",
            "PAM_Module",
            "segmentation_metrics",
            "semanticModule",
        ),
    ),
    examples={
        "channel-attention": "core_attention.mechanisms.msdual.dual:channel_example",
        "position-attention": "core_attention.mechanisms.msdual.dual:position_example",
    },
    aliases={
        "CAM": "channel-attention",
        "CAM_Module": "channel-attention",
        "PAM": "position-attention",
        "PAM_Module": "position-attention",
    },
    page="position_channel_attention.md",
    inserts={
        "cam": "core_attention.mechanisms.msdual.dual:CAM",
        "pam": "core_attention.mechanisms.msdual.dual:PAM",
    },
)
