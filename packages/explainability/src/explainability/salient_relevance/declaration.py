"""What is declared of salient_relevance; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "salient_relevance",
    components_of("explainability.salient_relevance.official", "relprop", "context_aware_saliency"),
    paper=Paper(
        "Beyond saliency: understanding convolutional neural networks from saliency prediction on layer-wise relevance propagation",
        2019,
        repository="Hey1Li/Salient-Relevance-Propagation",
        licence="MIT",
        components=("relprop", "context_aware_saliency"),
    ),
)
