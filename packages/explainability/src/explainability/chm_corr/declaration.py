"""What is declared of chm_corr; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "chm_corr",
    components_of("explainability.chm_corr.official", "CHMLearner", "CHMGridTransfer"),
    paper=Paper(
        "Allowing humans to interactively guide machines where to look does not always improve human-AI team's classification accuracy",
        2024,
        repository="anguyen8/chm-corr-interactive",
        licence="none",
        also="juhongm999/chm, anguyen8/visual-correspondence-XAI",
        components=("CHMLearner", "CHMGridTransfer"),
    ),
)
