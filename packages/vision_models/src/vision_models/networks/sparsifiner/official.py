"""lim142857/Sparsifiner: src/models/sparsifiner.py and sparsifiner_lvvit.py, with the losses of its two phases."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from core_attention.mechanisms.sparsifiner.losses import (
    logit_distillation,
    reconstruction,
    soft_cross_entropy,
    token_distillation,
)
from core_attention.mechanisms.sparsifiner.official import predictor_options
from core_attention.systems import Component, Config
from vision_models.networks.layouts import Layout
from vision_models.networks.sparsifiner.network import Sparsified, Sparsifiner


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, which is ours; and DeiT's and LV-ViT's, which lack the predictors."""
    return (
        Layout(name="official", rename=str),
        Layout(name="dense", rename=str, lacks=lambda key: "mask_predictor" in key),
    )


def _token_keep_rates(config: Config, depth: int) -> list[float | None] | None:
    """The rate of each layer that prunes; the published list has one entry per group of layers."""
    prunes = config.get("token_pruning_loc_indicator")
    if prunes is None or not any(prunes):
        return None
    rates = config["token_keep_rate_list"]
    by_layer = [rates[layer * len(rates) // depth] for layer in range(depth)]
    return [rate if here else None for rate, here in zip(by_layer, prunes, strict=True)]


def _build(config: Config, lvvit: bool = False) -> Sparsifiner:
    names = (
        "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "in_chans", "num_classes", "drop_rate",
        "attn_drop_rate", "drop_path_rate", "skip_lam",
    )  # fmt: skip
    options = predictor_options(config)
    depth = config.get("depth", 16 if lvvit else 12)
    return Sparsifiner(
        **{name: config[name] for name in names if name in config} | {"depth": depth},
        qkv_bias=config.get("qkv_bias", False),
        qk_scale=config.get("qk_scale"),
        lvvit=lvvit,
        attn_keep_rate=config["attn_keep_rate_list"],
        token_keep_rates=_token_keep_rates(config, depth),
        reduce_n_factor=options.pop("reduce_n_factor", 8),
        reduce_c_factor=options.pop("reduce_c_factor", 2),
        predictor=options,
    )


def _build_lvvit(config: Config) -> Sparsifiner:
    return _build(config, lvvit=True)


def _run(module: Sparsifiner, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    warm_up = mode == "train" and config["cfg"]["LOSS"]["USE_ATTN_RECON"]
    output = module.detailed(inputs["x"], warm_up=warm_up)
    outputs: dict[str, Any] = {"logits": output.logits, "features": output.features}
    masks = []
    for index, layer in enumerate(output.layers):
        assert layer.connectivity is not None
        outputs[f"approx_attn.{index}"] = layer.connectivity.scores
        outputs[f"attn_mask.{index}"] = layer.connectivity.mask.to(torch.uint8)
        masks.append(layer.connectivity.sparsity()["mask"])
        if layer.token_mask is not None:
            outputs[f"token_mask.{index}"] = layer.token_mask
    outputs["attn_mask_sparsity"] = torch.stack(masks).mean()
    if "teacher_logits" in inputs:
        parts = losses(output, inputs, config["cfg"]["LOSS"])
        outputs |= {f"loss.{name}": value for name, value in parts.items()}
        outputs["loss"] = torch.stack(list(parts.values())).sum()
    return outputs


def losses(found: Sparsified, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weighted losses that the published options switch on, by their published names.

    Raises:
        ValueError: one of those that no shipped configuration uses.
    """
    unused = [name for name in ("USE_MAX_BUDGET", "USE_LEAST_K", "USE_RATIO_LOSS") if options.get(name)]
    if unused:
        raise ValueError(
            f"the losses {', '.join(unused)} of the published options are not combined here: see losses.py"
        )
    parts = {}
    scores, weights = [], []
    for layer in found.layers:
        assert layer.connectivity is not None
        assert layer.weights is not None
        scores.append(layer.connectivity.scores)
        weights.append(layer.weights)
    if options["USE_CLS"]:
        parts["cls_loss"] = options["CLS"]["WEIGHT"] * soft_cross_entropy(found.logits, inputs["labels"])
    if options["USE_CLS_DISTILL"]:
        distance = logit_distillation(found.logits, inputs["teacher_logits"])
        parts["cls_distill_loss"] = options["CLS_DISTILL"]["WEIGHT"] * distance
    if options["USE_TOKEN_DISTILL"]:
        distance = token_distillation(
            found.features,
            inputs["teacher_tokens"],
            token_mask=found.layers[-1].token_mask,
            criterion=options["TOKEN_DISTILL"]["CRITERION"],
        )
        parts["token_distill_loss"] = options["TOKEN_DISTILL"]["WEIGHT"] * distance
    if options["USE_ATTN_RECON"]:
        teacher = [inputs[f"teacher_attn.{index}"] for index in range(len(scores))]
        distance = reconstruction(scores, teacher, criterion=options["ATTN_RECON"]["CRITERION"])
        parts["attn_recon_loss"] = options["ATTN_RECON"]["WEIGHT"] * distance
    if options["USE_ATTN_SELF_DISTILL"]:
        distance = reconstruction(scores, weights, criterion=options["ATTN_SELF_DISTILL"]["CRITERION"])
        parts["attn_self_distill_loss"] = options["ATTN_SELF_DISTILL"]["WEIGHT"] * distance
    return parts


components = {
    "Sparsifiner": Component(run=_run, build=_build),
    "SparsifinerLVViT": Component(run=_run, build=_build_lvvit),
}
