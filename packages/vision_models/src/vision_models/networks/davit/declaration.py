"""What is declared of davit; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "davit",
    components_of("vision_models.networks.davit.official", "DaViT", "DaViT_dense"),
)
