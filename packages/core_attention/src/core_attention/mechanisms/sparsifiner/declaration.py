"""What is declared of sparsifiner; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "sparsifiner",
    components_of("core_attention.mechanisms.sparsifiner.official", "MaskPredictor"),
    paper=Paper(
        "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
        2023,
        repository="lim142857/Sparsifiner",
        licence="MIT",
        components=(
            "MaskPredictor",
            "Sparsifiner",
            "SparsifinerLVViT",
        ),
    ),
    examples={
        "sparsifiner": "core_attention.mechanisms.sparsifiner.attention:example",
    },
    limits={
        "sparsifiner": {
            "autocast": "an untrained predictor's scores are nearly equal, so that bf16 rounds them to other keys",
            "dynamic length": "the paper's predictor has a row of weights for each token: another length is another module",
            "export": "the paper's predictor has a row of weights for each token: it exports at its own length only",
        },
    },
    aliases={
        "SparsifinerAttention": "sparsifiner",
    },
    page="sparsifiner.md",
    converters={
        "sparsifiner": "core_attention.mechanisms.sparsifiner.attention:for_layer",
    },
)
