"""What is declared of acmil; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "acmil",
    components_of("pathology_mil.model.official", "ACMIL_GA", "ACMIL_MHA", "WholeSlideImage", "visHeatmap"),
    paper=Paper(
        "Attention-Challenging Multiple Instance Learning for Whole Slide Image Classification",
        2024,
        repository="dazhangyu123/ACMIL",
        licence="MIT",
        also="patching: mahmoodlab/CLAM, GPL-3",
        components=("ACMIL_GA", "ACMIL_MHA", "WholeSlideImage", "visHeatmap"),
    ),
    page="acmil.md",
)
