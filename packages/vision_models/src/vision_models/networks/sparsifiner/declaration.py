"""What is declared of sparsifiner; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "sparsifiner",
    components_of("vision_models.networks.sparsifiner.official", "Sparsifiner", "SparsifinerLVViT"),
)
