"""What is declared of eurosat_bmta; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "eurosat_bmta",
    components_of(
        "remote_sensing.landuse.model.official",
        "Baseline3LayerCNN",
        "Attention7LayerCNN",
        "Balanced12LayerCNN",
        "BalancedResidualBlock",
        "DropBlock2D",
    ),
)
