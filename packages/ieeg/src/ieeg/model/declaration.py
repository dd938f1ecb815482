"""What is declared of mvpformer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "mvpformer",
    components_of("ieeg.model.official", "WaveEncoder", "HMVPFormer", "ClassificationHMVPFormer", "EventScoring"),
)
