"""Qwen2.5-VL and Qwen2-VL of transformers: building them from a configuration. The one place that imports their classes."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

FAMILIES = ("qwen2_5_vl", "qwen2_vl")


class PatchProjection(nn.Conv3d):
    """A convolution whose kernel is as large as its input, computed as the matrix product that it is: on CPUs many times faster."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:] != self.kernel_size:
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def build_backbone(config: Mapping[str, Any]) -> Any:
    """An untrained backbone with transformers' own initialisation.

    Args:
        config: transformers' configuration, flat as in old checkpoints or nested as in new ones; ``model_type`` tells the family,
            Qwen2.5-VL where it is absent.

    Raises:
        ValueError: no configuration, another family, or sizes that transformers refuses.
    """
    from copy import deepcopy

    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
    )

    classes = {
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
        "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    }
    if not isinstance(config, Mapping) or not config:
        raise ValueError(
            "the backbone has no configuration: without its sizes it would be another model of 70 billion parameters"
        )
    values = deepcopy(dict(config))
    family = values.pop("model_type", "qwen2_5_vl")
    if not isinstance(family, str) or family not in classes:
        raise ValueError(f"the backbone is {family!r}, expected one of {', '.join(FAMILIES)}")
    for name in ("architectures", "transformers_version", "torch_dtype", "dtype"):
        values.pop(name, None)
    make_config, make_model = classes[family]
    try:
        backbone = make_model(make_config(**values))
    except Exception as error:  # what transformers raises of a wrong entry is of any kind
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"transformers builds no {family} of this configuration: {reason}") from None
    # the same parameters under the same names, another way to compute
    backbone.model.visual.patch_embed.proj.__class__ = PatchProjection
    return backbone


def text_width(backbone: Any) -> int:
    """The width of the language model, which is the head's."""
    return backbone.config.text_config.hidden_size


def new_cache(backbone: Any) -> Any:
    """An empty cache of keys and values for its language model."""
    from transformers import DynamicCache

    return DynamicCache(config=backbone.config.text_config)
