"""What is declared of csa_action; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "csa_action",
    components_of(
        "vision_models.actions.model.official",
        "BMN",
        "bmn_loss",
        "soft_nms",
        "average_precision_detection",
        "average_recall",
    ),
)
