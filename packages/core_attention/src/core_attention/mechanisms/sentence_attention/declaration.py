"""What is declared of sentence_attention; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "sentence_attention",
    components_of("core_attention.mechanisms.sentence_attention.official", "SentenceAttention"),
    paper=Paper(
        "Sentence Attention Blocks for Answer Grounding",
        2023,
        repository="khoshsirat/embedding-attention-blocks",
        licence="none",
        components=(
            "Model",
            "SentenceAttention",
        ),
    ),
    examples={
        "sentence-attention": "core_attention.mechanisms.sentence_attention.attention:example",
    },
    page="sentence_attention.md",
)
