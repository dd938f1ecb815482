"""Head analytics under the names of its golden cases, which are our own transcription: there is no public code."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from core_attention import capture
from core_attention.systems import Component, Config
from explainability.vit.backbone import grid_of
from explainability.vit_analytics.distance import hop_strength, layer_trend, ring_distance, ring_size
from explainability.vit_analytics.importance import head_importance


def _build(config: Config) -> nn.Module:
    size = config["img_size"]
    if not isinstance(size, int):
        size = tuple(size)
    eps = config.get("norm_eps", 1e-6)
    return VisionTransformer(
        img_size=size,
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        num_classes=config["num_classes"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        reg_tokens=config.get("reg_tokens", 0),
        qkv_bias=config.get("qkv_bias", True),
        init_values=1e-5 if config.get("layer_scale", False) else None,
        qk_norm=config.get("qk_norm", False),
        norm_layer=lambda width, **options: nn.LayerNorm(width, eps=eps, **options),  # pyright: ignore[reportArgumentType]
    )


@torch.compiler.disable  # maps are recorded beside the computation, where no graph reaches
def _recorded(model: VisionTransformer, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the attention of all layers, (batch, layers, heads, tokens, tokens)."""
    with capture(model) as maps:
        logits = model(image)
    return logits, torch.stack([maps[name] for name in maps], 1)


def _run(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: VisionTransformer = module
    image = inputs["image"]
    logits, weights = _recorded(model, image)  # pyright: ignore[reportCallIssue] (the decorator hides the arguments)
    grid = grid_of(model, image)
    importance = head_importance(model, image, inputs.get("label"))
    hops = hop_strength(weights, grid)
    trend = layer_trend(hops.mass)
    outputs: dict[str, Any] = {
        "logits": logits,
        "cls_embedding": importance.cls_embedding,
        "attention": weights,
        "ring_distance": ring_distance(*grid),
        "ring_size": ring_size(*grid),
        "khop_mass": hops.mass,
        "khop_strength": hops.strength,
        "mean_attention_distance": hops.distance,
        "normalised_entropy": hops.entropy,
        "share_to_cls": hops.share_to_prefix,
        "layer_trend_khop_mass": trend.mean,
        "layer_trend_khop_mass_std_over_heads": trend.sd,
    }
    for name in ("prob_drop", "loss_increase", "jsd", "cls_shift", "flip"):
        values = getattr(importance, name)
        outputs[f"importance.{name}"] = values
        outputs[f"importance_mean.{name}"] = values.mean(0)
    return outputs


components = {"head_analysis": Component(run=_run, build=_build)}
