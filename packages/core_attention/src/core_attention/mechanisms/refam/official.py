"""RefAM (Kukleva et al. 2025): the heat map. The published code could not be had; its golden cases are worked examples.

The diffusion transformers whose maps it reads are registered by the package that builds them.
"""

from __future__ import annotations

import torch

from core_attention.mechanisms.refam.cross_maps import cross_map_of
from core_attention.mechanisms.refam.heatmap import Cleaner, TextTokens, heatmap_of, sink_table
from core_attention.registry.systems import Component


def run_heatmap(module, inputs, *, config, mode):
    tokens = TextTokens(
        words=tuple(tuple(group) for group in config["word_groups"]),
        stop=tuple(config.get("stop", ())),
        magnets=tuple(config.get("aux", ())),
        special=tuple(config.get("special", ())),
    )
    count = config["text_tokens"]
    text, image = slice(0, count), slice(count, None)
    if config.get("order", "text_first") == "image_first":
        cells = inputs["joint_maps"].shape[-1] - count
        text, image = slice(cells, None), slice(0, cells)
    layers = []
    for number, joint in enumerate(inputs["joint_maps"]):
        renormalise = config.get("renorm", "none")
        layers.append((str(number), cross_map_of(joint[None], image=image, text=text, renormalise=renormalise)))
    cleaner = Cleaner(config.get("kappa", 4.0), config.get("mode", "suppress"))
    heatmap, accumulated = heatmap_of(layers, tokens, config["grid"], cleaner=cleaner)
    return {
        "gas_mask": sink_table(accumulated),
        "clean_cross_map": accumulated.cross,
        "word_maps": heatmap.words,
        "heatmap": heatmap.heat,
        "point_xy": torch.tensor(heatmap.point, dtype=heatmap.heat.dtype),
    }


components = {"heatmap": Component(run=run_heatmap)}
