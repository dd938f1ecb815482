"""What is declared of ela; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "ela",
    components_of("core_attention.mechanisms.ela.official", "ELA"),
    paper=Paper(
        "ELA: Efficient Local Attention for Deep Convolutional Neural Networks",
        2024,
        components=("ELA",),
    ),
    examples={
        "ela": "core_attention.mechanisms.ela.attention:example",
    },
    page="ela.md",
    inserts={
        "ela": "core_attention.mechanisms.ela.attention:ELA",
    },
)
