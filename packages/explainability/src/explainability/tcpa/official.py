"""TCPA under its published names: golden cases, and state dicts of the published code. The paper is declared with the mechanism in core."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts
from core_attention.systems import Component, Config, StateDict
from explainability.tcpa.model import TCPA
from explainability.vit.backbone import build_backbone

RENAMED = {
    "Pool.Pool_cls.keys": "prompts.cls.keys",
    "Pool.Pool_cls.prompts": "prompts.cls.prompts",
    "Pool.Pool_image.keys": "prompts.image.keys",
    "Pool.Pool_image.prompts": "prompts.image.prompts",
    "ADVP_w": "prompts.scale",
    "ADVP_b": "prompts.shift",
    "backbone.head.weight": "head.weight",
    "backbone.head.bias": "head.bias",
}


def _build(config: Config) -> nn.Module:
    if not config.get("RDVP", True):
        raise ValueError("RDVP=False: without roles these are plain prompts, not token coordinated ones")
    # without token matching (TDVP) every token may use all prompts of its role
    matched = config.get("TDVP", True)
    prompts = TokenCoordinatedPrompts(
        config["depth"],
        config["embed_dim"],
        cls_entries=config["pool_size_cls"],
        image_entries=config["pool_size_image"],
        cls_length=config.get("len_prompts_cls", 1),
        image_length=config.get("len_prompts_image", 1),
        cls_k=config["topk_cls"] if matched else None,
        image_k=config["topk_image"] if matched else None,
        use_fourier=config.get("fourier", True),
        affine=config.get("ADVP", False),
        dropout=config.get("dropout", 0.1),
        renormalise=config.get("renormalise", False),
    )
    return TCPA(
        build_backbone(config),
        config["num_classes"],
        prompts,
        image_prompt=config.get("IPrompt", False),
        use_simam=config.get("simam", False),
    )


def convert(official: StateDict, config: Config) -> StateDict:
    """Our state dict; keys may carry the ``module.`` of data parallel training."""
    ours = {}
    for name in list(official):
        key = name.removeprefix("module.")
        key = RENAMED.get(key, key)
        ours[key.replace("Prompter.Prompter.", "prompter.")] = official.pop(name)
    return ours


def _run(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: TCPA = module
    image = inputs["image"]
    result = model.coordinate(image)
    outputs: dict[str, Any] = {"logits": result.logits, "matching_distance": result.distance}
    for layer, mask in enumerate(model.masks(image)):
        outputs[f"prompt_mask.{layer}"] = mask.byte()
        if config.get("fourier", True):
            outputs[f"fourier_prompts.{layer}"] = model.prompts.prompts(layer)
    return outputs


components = {"Model_VFPT_TCPA": Component(run=_run, build=_build, convert=convert)}
