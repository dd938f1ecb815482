"""ELA (Xu and Wan 2024): no official code; the names are those of the circulating copies."""

from __future__ import annotations

from core_attention.mechanisms.ela.attention import COMMUNITY, ELA
from core_attention.parts.strips import strip_gate, strip_means
from core_attention.registry.systems import Component, Config, StateDict

OPTIONS = ("variant", "kernel_size", "groups", "num_groups", "shared", "strict")


def build(config: Config) -> ELA:
    return ELA(config["channels"], **{name: config[name] for name in OPTIONS if config.get(name) is not None})


def convert(official: StateDict, config: Config) -> StateDict:
    return {COMMUNITY.get(key, key): official.pop(key) for key in list(official)}


def run(module, inputs, *, config, mode):
    attn_h, attn_w = module.gates(*strip_means(inputs["x"]))
    return {"y": strip_gate(inputs["x"], attn_h, attn_w), "attn_h": attn_h, "attn_w": attn_w}


components = {"ELA": Component(run=run, build=build, convert=convert, batch={"x": 0, "y": 0, "attn_h": 0, "attn_w": 0})}
