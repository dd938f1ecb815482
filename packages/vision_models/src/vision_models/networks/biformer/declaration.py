"""What is declared of biformer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "biformer",
    components_of("vision_models.networks.biformer.official", "BiFormer", "BiFormerSTL", "nchwBiFormerSTL"),
)
