"""What is declared of titans; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "titans",
    components_of("core_attention.published.titans.official", "NeuralMemory"),
)
