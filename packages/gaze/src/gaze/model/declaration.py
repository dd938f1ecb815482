"""What is declared of oat; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "oat",
    components_of("gaze.model.official", "Seq2SeqTransformer", "scanpath_metrics", "positionalEncodingLearned"),
    paper=Paper(
        "OAT: Object-Level Attention Transformer for Gaze Scanpath Prediction",
        2024,
        repository="HKUST-NISL/oat_eccv24",
        licence="none",
        components=("Seq2SeqTransformer", "scanpath_metrics", "positionalEncodingLearned"),
    ),
)
