"""Attention layer of the dynamic subspace learners (Adiga et al. 2022), adigasu/Dynamic_subspace_learners."""

from __future__ import annotations

from core_attention.mechanisms.dynsubspace.attention_layer import AttentionLayer
from core_attention.registry.systems import Component, Config


def build(config: Config) -> AttentionLayer:
    return AttentionLayer(config["input_dim"], kernel_size=config.get("kernel_sz", 3))


def run(module, inputs, *, config, mode):
    return {"attention": module(inputs["x"])}


components = {"AttentionLayer": Component(run=run, build=build, batch={"x": 0, "attention": 0})}
