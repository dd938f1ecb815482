"""Deconstructing attention: the cores of the variants. The language model is registered by the package that holds it.

No published code could be had; the cases are worked examples of the paper's formulas in float64.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core_attention.attention import attention
from core_attention.masks import Causal
from core_attention.mechanisms.deconstructing import attention as d
from core_attention.parts.rotary import rotary_half
from core_attention.registry.systems import Component, Config


def _run(module: nn.Module | None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    positions = torch.arange(q.shape[-2])
    theta = config.get("rope_theta", 10000.0)
    causal = Causal()
    # a map is what attention makes of one-hot values
    onehot = torch.eye(q.shape[-2], dtype=q.dtype).expand(*q.shape[:2], -1, -1)
    standard_map = attention(q, k, onehot, mask=causal)
    indicators = d.attention_indicators(standard_map[0])
    apart = {}
    if "q_pos" in inputs:  # separate denominators may vanish for anything but positive queries and keys
        mixed = d.approximate_attention(inputs["q_pos"], inputs["k_pos"], v, form="paper_recurrent")[0]
        apart = {"approx_paper_recurrent_pos": mixed}
    return apart | {
        "standard": attention(q, k, v, mask=causal),
        "standard_map": standard_map,
        "standard_rope": attention(rotary_half(q, positions, theta), rotary_half(k, positions, theta), v, mask=causal),
        "approx_joint_outer": d.approximate_attention(q, k, v)[0],
        "approx_joint_outer_map": d.approximate_map(q, k),
        "nonapprox": d.nonapproximate_attention(q, k, v)[0],
        "nonapprox_map": d.nonapproximate_map(q, k),
        "ind_entropy": indicators["entropy"],
        "ind_conc": indicators["concentration"],
        "ind_sink": indicators["sink"],
        "ind_locfoc": indicators["local_focus"],
        "ind_headdiv": indicators["head_diversity"],
    }


components = {"variant_cores": Component(run=_run)}
