"""Scale-aware aggregation of FeatEnHancer (Hashmi et al. 2023), khurramHashmi/FeatEnHancer."""

from __future__ import annotations

from core_attention.mechanisms.featenhancer.scale_aware import ScaleAwareFeatureAggregation
from core_attention.registry.systems import Component, Config


def build(config: Config) -> ScaleAwareFeatureAggregation:
    return ScaleAwareFeatureAggregation(config.get("channels", 24), num_heads=config.get("heads", 8))


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"], inputs["quarter"])}


components = {"ScaleAwareFeatureAggregation": Component(run=run, build=build, batch={"x": 0, "quarter": 0, "y": 0})}
