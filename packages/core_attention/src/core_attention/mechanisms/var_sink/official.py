"""Visual attention redistribution (Kang et al. 2025), seilk/VisAttnSink. The language model it was recorded in is registered elsewhere."""

from __future__ import annotations

import torch

from core_attention.mechanisms.var_sink.redistribution import Rule, behind_image, redistribute
from core_attention.mechanisms.var_sink.sinks import TAU, find_sinks
from core_attention.registry.systems import Component, Config


def rule_of(config: Config) -> Rule:
    """The rule of the published configuration; its ρ is the largest share on sinks."""
    return Rule(config.get("p", 0.6), config.get("summ", 0.2), config.get("rho", 0.5))


def run_processor(module, inputs, *, config, mode):
    weights, hidden = inputs["attn"], inputs["hidden"]
    batch, _, queries, keys = weights.shape
    places = torch.arange(keys, device=weights.device)
    start, stop = config["image_start"], config["image_start"] + config["image_len"]
    image = ((places >= start) & (places < stop)).expand(batch, keys)
    sinks = find_sinks(hidden, config["sink_dims"], config.get("tau", TAU))
    tokens = sinks[0].nonzero()[:, 0]
    sinks = torch.nn.functional.pad(sinks, (0, keys - hidden.shape[1]))  # generated tokens are no sinks
    editable = behind_image(image)[:, keys - queries :]
    edited, selected = redistribute(weights, image, sinks, editable, rule_of(config))
    return {"attn": edited, "edited_head_query_mask": selected[0], "sink_indices": tokens}


components = {"VARProcessor": Component(run=run_processor)}
