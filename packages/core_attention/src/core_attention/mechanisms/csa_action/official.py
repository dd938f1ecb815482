"""Class semantics-based attention (Sridhar et al. 2021): no official code; a reconstruction."""

from __future__ import annotations

from core_attention.mechanisms.csa_action.class_semantics import CSABlock
from core_attention.registry.systems import Component, Config

OPTIONS = ("hidden", "reduction", "kernel_size", "fuse", "self_se")


def build(config: Config) -> CSABlock:
    options = {name: config[name] for name in OPTIONS if name in config}
    return CSABlock(config["in_channels"], config["feat_channels"], **options)


def run(module, inputs, *, config, mode):
    r, f, mask = inputs["R"], inputs["F"], inputs.get("mask")
    if mask is not None:
        mask = mask.bool()
    channel, time = module.gates(r, f.shape[2], mask)
    return {"F_attended": module(r, f, mask=mask), "channel_weights": channel[..., 0], "temporal_weights": time}


BATCH = {"R": 0, "F": 0, "F_attended": 0, "channel_weights": 0, "temporal_weights": 0}


components = {"CSABlock": Component(run=run, build=build, batch=BATCH)}
