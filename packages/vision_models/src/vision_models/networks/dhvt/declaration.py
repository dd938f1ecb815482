"""What is declared of dhvt; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "dhvt",
    components_of("vision_models.networks.dhvt.official", "VisionTransformer"),
)
