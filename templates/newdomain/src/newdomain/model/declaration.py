"""What is declared of newdomain; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "newdomain",
    components_of("newdomain.model.official", "BurstClassifier"),
)
