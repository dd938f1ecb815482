"""Attention layer of the dynamic subspace learners (Adiga et al. 2022), adigasu/Dynamic_subspace_learners."""

from __future__ import annotations

from core_attention.mechanisms.dynsubspace.attention_layer import AttentionLayer
from core_attention.registry.systems import Component, Config, Paper, System


def build(config: Config) -> AttentionLayer:
    return AttentionLayer(config["input_dim"], kernel_size=config.get("kernel_sz", 3))


def run(module, inputs, *, config, mode):
    return {"attention": module(inputs["x"])}


system = System(
    "dynsubspace",
    {"AttentionLayer": Component(run=run, build=build, batch={"x": 0, "attention": 0})},
    paper=Paper(
        "Attention-based Dynamic Subspace Learners for Medical Image Analysis",
        2022,
        repository="adigasu/Dynamic_subspace_learners",
        licence="MIT",
        components=(
            "AttentionLayer",
            "MarginLoss",
            "embedding_model",
            "reassign_clusters",
            "retrieval_metrics",
            "split_neurons",
        ),
    ),
    examples={
        "subspace-attention-layer": "core_attention.mechanisms.dynsubspace.attention_layer:example",
    },
    aliases={
        "AttentionLayer": "subspace-attention-layer",
    },
    limits={
        "subspace-attention-layer": {
            "dynamic length": "torch fixes a range of sizes for its convolution of 1,024 channels: one graph more than attention has",
        },
    },
    page="feature_maps.md",
)
