"""qhfan/RALA: classfication/RALA.py. The networks (RAVLT) are registered by the package that holds the backbones."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.rala.attention import GateLinearAttentionNoSilu, VanillaSelfAttention
from core_attention.registry.systems import Component, Config


def _component(kind: type[nn.Module]) -> Component:
    def build(config: Config) -> nn.Module:
        return kind(config["dim"], config["num_heads"])

    def run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
        return {"y": module(inputs["x"], inputs.get("sin"), inputs.get("cos"))}

    return Component(run=run, build=build, batch={"x": 0, "y": 0})


components = {kind.__name__: _component(kind) for kind in (GateLinearAttentionNoSilu, VanillaSelfAttention)}
