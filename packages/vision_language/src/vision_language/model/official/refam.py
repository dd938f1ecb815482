"""The diffusion transformers of diffusers whose joint attention RefAM reads; golden cases hold their whole maps."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

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


def run(module, inputs, *, config, mode):
    family = family_of(module)
    names = [name for kind in family.layers(module) for name in kind]
    with capture(module, layers=names) as maps, warnings.catch_warnings():
        # Mochi asks for a float32 autocast, which torch has not on the CPU and does not need
        warnings.filterwarnings("ignore", "In CPU autocast")
        sample = module(**inputs, return_dict=False)[0]
    rows, columns = config["grid"]
    image = config.get("frames", 1) * rows * columns
    what = "video_to_text" if family.per_sample else "image_to_text"
    outputs: dict[str, Any] = {"sample": sample}
    for name in names:
        joint = maps[name]
        of_image, of_text = split(family, joint.shape[-1], image)
        outputs[f"joint_map/{name}"] = joint
        outputs[f"{what}/{name}"] = joint[:, :, of_image, of_text]
    return outputs


components = {
    name: Component(run=run, build=build(name))
    for name in ("FluxTransformer2DModel", "SD3Transformer2DModel", "MochiTransformer3DModel")
}
