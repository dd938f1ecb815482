"""What is declared of dynsubspace; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import System, components_of

system = System(
    "dynsubspace",
    components_of(
        "medical_segmentation.similar.model.official",
        "embedding_model",
        "MarginLoss",
        "reassign_clusters",
        "split_neurons",
        "retrieval_metrics",
    ),
)
