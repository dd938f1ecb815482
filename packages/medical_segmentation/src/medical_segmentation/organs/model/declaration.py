"""What is declared of msdual; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "msdual",
    components_of(
        "medical_segmentation.organs.model.official", "DAF_stack", "semanticModule", "MultiConv", "segmentation_metrics"
    ),
)
