"""The diffusion transformers of diffusers whose joint attention RefAM reads; golden cases hold their whole maps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_attention import capture
from core_attention.mechanisms.refam.families import family_of, split
from core_attention.systems import Component, Config

# facts about a recording, beside the constructor's arguments
_FACTS = {"grid", "text_tokens", "frames", "valid_text_tokens"}


def build(name: str):
    """The `build` of one class of diffusers."""

    def build_transformer(config: Config) -> nn.Module:
        import diffusers

        arguments = {key: value for key, value in config.items() if key not in _FACTS}
        for key, value in arguments.items():
            if isinstance(value, list):
                arguments[key] = tuple(value)
        return getattr(diffusers, name)(**arguments)

    return build_transformer


@torch.compiler.disable()  # a compiled model runs no Python that could be watched
def _watched(module: nn.Module, names: list[str], inputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """What the network returns, and each layer's whole map."""
    with capture(module, layers=names) as maps, warnings.catch_warnings():
        # Mochi asks for a float32 autocast, which torch has not on the CPU and does not need
        warnings.filterwarnings("ignore", "In CPU autocast")
        sample = module(**inputs, return_dict=False)[0]
    return sample, {name: maps[name] for name in names}


def run(module, inputs, *, config, mode):
    family = family_of(module)
    names = [name for kind in family.layers(module) for name in kind]
    sample, maps = _watched(module, names, inputs)
    rows, columns = config["grid"]
    image = config.get("frames", 1) * rows * columns
    what = "video_to_text" if family.per_sample else "image_to_text"
    outputs: dict[str, Any] = {"sample": sample}
    for name, joint in maps.items():
        of_image, of_text = split(family, joint.shape[-1], image)
        outputs[f"joint_map/{name}"] = joint
        outputs[f"{what}/{name}"] = joint[:, :, of_image, of_text]
    return outputs


# The last block drops its words' outputs: their queries reach the maps alone, and those carry no gradient.
# FLUX ends with blocks that have one projection for words and picture.
_LAST_QUERIES = {
    "FluxTransformer2DModel": (),
    "SD3Transformer2DModel": ("transformer_blocks.*.attn.add_q_proj.*", "transformer_blocks.*.attn.norm_added_q.*"),
    "MochiTransformer3DModel": ("transformer_blocks.*.attn1.add_q_proj.*", "transformer_blocks.*.attn1.norm_added_q.*"),
}

components = {
    name: Component(run=run, build=build(name), unused=last_queries) for name, last_queries in _LAST_QUERIES.items()
}
