"""What is declared of csa_action; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "csa_action",
    components_of("core_attention.mechanisms.csa_action.official", "CSABlock"),
    paper=Paper(
        "Class Semantics-based Attention for Action Detection",
        2021,
        also="detector: parts from JJBOY/BMN-Boundary-Matching-Network, MIT, and sming256/OpenTAD, Apache-2.0",
        components=(
            "BMN",
            "CSABlock",
            "average_precision_detection",
            "average_recall",
            "bmn_loss",
            "soft_nms",
        ),
    ),
    examples={
        "class-semantics": "core_attention.mechanisms.csa_action.class_semantics:example",
    },
    aliases={
        "CSABlock": "class-semantics",
    },
    page="class_semantics.md",
)
