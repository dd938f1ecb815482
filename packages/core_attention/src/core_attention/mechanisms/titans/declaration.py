"""What is declared of titans; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "titans",
    components_of(
        "core_attention.mechanisms.titans.official", "SegmentedAttention", "paper_NeuralMemory", "paper_layer"
    ),
    paper=Paper(
        "Titans: Learning to Memorize at Test Time",
        2025,
        also="best known: lucidrains/titans-pytorch, MIT",
        components=(
            "MemoryAsContextTransformer",
            "NeuralMemory",
            "SegmentedAttention",
            "paper_NeuralMemory",
            "paper_layer",
        ),
    ),
    examples={
        "titans-lmm": "core_attention.mechanisms.titans.layers:lmm_example",
        "titans-mac": "core_attention.mechanisms.titans.layers:mac_example",
        "titans-mag": "core_attention.mechanisms.titans.layers:mag_example",
        "titans-mal": "core_attention.mechanisms.titans.layers:mal_example",
    },
    aliases={
        "NeuralMemory": "titans-lmm",
        "MemoryAsContext": "titans-mac",
        "MemoryAsGate": "titans-mag",
        "MemoryAsLayer": "titans-mal",
    },
    limits={
        "titans-mac": {
            "dynamic length": "its segments depend on one another: a loop of Python, which a graph holds unrolled for one length",
            "export": "its segments depend on one another: a loop of Python, which a graph holds unrolled for one length",
        },
    },
    page="titans.md",
)
