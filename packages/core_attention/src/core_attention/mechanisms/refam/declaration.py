"""What is declared of refam; how its components are run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "refam",
    components_of("core_attention.mechanisms.refam.official", "heatmap"),
    paper=Paper(
        "RefAM: Attention Magnets for Zero-Shot Referral Segmentation",
        2025,
        repository="Annusha/refam",
        licence="not obtainable",
        also="maps of diffusers' models",
        components=("FluxTransformer2DModel", "MochiTransformer3DModel", "SD3Transformer2DModel", "heatmap"),
    ),
    page="refam.md",
)
