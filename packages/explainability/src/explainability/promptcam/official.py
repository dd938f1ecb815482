"""Prompt-CAM under its published names: golden cases, and checkpoints of the published code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from explainability.promptcam.blurring import blurred_attention, blurred_logits, rank_heads
from explainability.promptcam.model import PromptCAM
from explainability.vit.backbone import build_backbone

OURS = {"vpt.prompt_embeddings": "prompts", "head.weight": "head.weight", "head.bias": "head.bias"}


def _build(config: Config) -> nn.Module:
    backbone = build_backbone(config, reg_tokens=config.get("reg_tokens", 0))
    return PromptCAM(backbone, config["num_prompts"], dropout=config.get("vpt_dropout", 0.0))


def convert(official: StateDict, config: Config) -> StateDict:
    """Our state dict; keys may carry the ``module.`` of data parallel training."""
    ours = {}
    for name in list(official):
        key = name.removeprefix("module.")
        ours[OURS.get(key, f"backbone.{key}")] = official.pop(name)
    return ours


def official_adapter(model: PromptCAM) -> dict[str, Tensor]:
    """Prompts and head under their published names: a file of a few MB.

    Raises:
        ValueError: a variant that the published code does not have.
    """
    if model.variant != "deep" or model.generic_prompts is not None:
        raise ValueError("published checkpoints hold the deep variant with as many prompts in every block as classes")
    state = model.state_dict()
    return {name: state[own] for name, own in OURS.items()}


def load_adapter(model: PromptCAM, official: Mapping[str, Tensor]) -> None:
    """Loads prompts and head alone; the backbone stays as it is.

    Raises:
        ValueError: keys or shapes do not fit, each named.
    """
    given = {name.removeprefix("module."): tensor for name, tensor in official.items()}
    wrong = sorted(set(given) ^ set(OURS))
    if wrong:
        raise ValueError(f"an adapter holds {', '.join(OURS)}; missing or unexpected: {', '.join(wrong)}")
    state = model.state_dict()
    for name, tensor in given.items():
        expected = state[OURS[name]].shape
        if tensor.shape != expected:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(expected)}")
    model.load_state_dict({OURS[name]: tensor for name, tensor in given.items()}, strict=False)


def _run(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: PromptCAM = module
    image = inputs["image"]
    weights = model.last_attention(image)
    outputs: dict[str, Any] = {"logits": model(image), "attn_last": weights}
    target = config.get("target_class")
    if target is None:
        return outputs
    skipped = model.classes + model.backbone.num_prefix_tokens
    outputs["class_maps"] = weights[:, :, target, skipped:]
    heads = config.get("blurred_heads")
    if heads is not None:
        outputs["blurred_logits"] = blurred_logits(model, image, heads, target)
        outputs["blurred_attn_last"] = blurred_attention(model, image, heads, target)
    if mode == "eval":
        ranking = rank_heads(model, image[:1], target)
        outputs["greedy_blur_order"] = torch.tensor(ranking.order)
        outputs["greedy_scores"] = torch.tensor(ranking.probabilities, dtype=torch.float64)
    return outputs


components = {"VisionTransformerPETL": Component(run=_run, build=_build, convert=convert)}
