"""What is declared of rala; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "rala",
    components_of("vision_models.networks.rala.official", "RAVLT", "RAVLT_dense"),
)
