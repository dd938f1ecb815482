"""What is declared of tcpa; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "tcpa",
    components_of("explainability.tcpa.official", "Model_VFPT_TCPA"),
)
