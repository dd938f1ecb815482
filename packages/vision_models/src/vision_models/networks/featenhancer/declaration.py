"""What is declared of featenhancer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "featenhancer",
    components_of("vision_models.networks.featenhancer.official", "FeatEnHancer"),
)
