"""What is declared of moh; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "moh",
    components_of("vision_models.networks.moh.official", "DiT", "TransNeXt"),
)
