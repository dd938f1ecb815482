"""What is declared of scatterbrain; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "scatterbrain",
    components_of("vision_models.networks.scatterbrain.official", "T2T_ViT"),
)
