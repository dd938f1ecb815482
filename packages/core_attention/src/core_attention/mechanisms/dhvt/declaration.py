"""What is declared of dhvt; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "dhvt",
    components_of("core_attention.mechanisms.dhvt.official", "DAFF", "HI_Attention"),
    paper=Paper(
        "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets",
        2022,
        repository="ArieSeirack/DHVT",
        licence="Apache-2.0",
        components=(
            "DAFF",
            "HI_Attention",
            "VisionTransformer",
        ),
    ),
    examples={
        "dhvt-attention": "core_attention.mechanisms.dhvt.attention:attention_example",
        "dhvt-feed-forward": "core_attention.mechanisms.dhvt.attention:feed_forward_example",
    },
    limits={
        "dhvt-feed-forward": {
            "dynamic length": "whether the tokens fill a square is found by a square root of their number, which a graph fixes",
            "export": "whether the tokens fill a square is found by a square root of their number, which a graph fixes",
            "one token": "batch normalisation in training has no variance of a single pixel of a single sample",
        },
    },
    aliases={
        "HeadInteractedAttention": "dhvt-attention",
        "HI-MHSA": "dhvt-attention",
        "DAFF": "dhvt-feed-forward",
    },
    page="dhvt.md",
)
