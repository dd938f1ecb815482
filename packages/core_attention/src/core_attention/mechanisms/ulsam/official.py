"""ULSAM (Saini et al. 2020), repository Nandan91/ULSAM."""

from __future__ import annotations

from core_attention.mechanisms.ulsam.attention import ULSAM, stacked, subspace_gate
from core_attention.registry.systems import Component, Config, StateDict


def build(config: Config) -> ULSAM:
    return ULSAM(
        config["nin"], num_splits=config.get("num_splits", 4), norm=config.get("norm", True), official_momentum=True
    )


def convert(official: StateDict, config: Config) -> StateDict:
    stacked(official, "", config.get("num_splits", 4))
    ours = dict(official)
    official.clear()
    return ours


def run(module, inputs, *, config, mode):
    attn = module.attention(inputs["x"])
    return {"y": subspace_gate(inputs["x"], attn), "attn": attn}


components = {"ULSAM": Component(run=run, build=build, convert=convert, batch={"x": 0, "y": 0, "attn": 0})}
