"""What is declared of mambaout; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "mambaout",
    components_of("vision_models.networks.mambaout.official", "GatedCNNBlock", "MambaOut", "timm_MambaOut"),
    paper=Paper(
        "MambaOut: Do We Really Need Mamba for Vision?",
        2025,
        repository="yuweihao/MambaOut",
        licence="Apache-2.0",
        also="timm, Apache-2.0",
        components=("GatedCNNBlock", "MambaOut", "timm_MambaOut"),
    ),
    examples={"gated-cnn": "vision_models.networks.mambaout.official:example"},
    aliases={"GatedCNNBlock": "gated-cnn"},
    page="mambaout.md",
)
