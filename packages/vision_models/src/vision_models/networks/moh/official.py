"""SkyworkAI/MoH: MoH-ViT (transnext.py) and MoH-DiT (models.py)."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from core_attention.systems import Component, Config
from vision_models.networks.layouts import Layout, converted_by
from vision_models.networks.moh.dit import DiT
from vision_models.networks.moh.transnext import TransNeXt


def _next(match: re.Match) -> str:
    """The published stages are numbered from 1, in the name itself."""
    name = {"patch_embeds": "patch_embed", "stages": "block", "norms": "norm"}[match[1]]
    return f"{name}{int(match[2]) + 1}."


def _official(key: str) -> str:
    key = re.sub(r"^(patch_embeds|stages|norms)\.(\d+)\.", _next, key)
    return key.replace("attn.router.", "attn.").replace("mlp.dwconv.", "mlp.dwconv.dwconv.")


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, of both networks."""
    return (Layout(name="official", rename=_official),)


def _build_transnext(config: Config) -> TransNeXt:
    names = (
        "img_size", "pretrain_size", "embed_dims", "num_heads", "mlp_ratios", "depths", "sr_ratios", "num_classes",
        "qkv_bias", "norm_eps", "in_chans", "drop_rate", "drop_path_rate",
    )  # fmt: skip
    if config.get("attn_drop_rate"):
        raise ValueError("these attentions have no dropout")
    sr_ratios = config.get("sr_ratios", (8, 4, 2, 1))
    return TransNeXt(
        **{name: config[name] for name in names if config.get(name) is not None},
        patch_size=config.get("patch_size", 16),
        window_size=config.get("window_size", [None if ratio == 1 else 3 for ratio in sr_ratios]),
        shared=config["shared_head"],
        routed=config["routed_head"],
    )


def _run_transnext(module: TransNeXt, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    pooled = []
    handle = module.head.register_forward_pre_hook(lambda _, arguments: pooled.append(arguments[0]))
    logits, losses = module.forward_with_balance(inputs["x"])
    handle.remove()
    outputs = {"logits": logits, "features": pooled[0]}
    if losses:
        outputs["aux_losses"] = torch.stack(losses)
    return outputs


def _build_dit(config: Config) -> DiT:
    names = (
        "input_size", "patch_size", "in_channels", "hidden_size", "depth", "mlp_ratio", "class_dropout_prob", "num_classes",
        "learn_sigma", "num_heads", "head_dim",
    )  # fmt: skip
    mixed = config.get("moh", True) and config.get("shared_head") is not None
    return DiT(
        **{name: config[name] for name in names if config.get(name) is not None},
        shared=config["shared_head"] if mixed else None,
        routed=config["routed_head"] if mixed else 0,
    )


def _run_dit(module: DiT, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    x = inputs["x"]
    outputs = {"out": module(x, inputs["t"], inputs["y"])}
    if mode == "eval" and config.get("class_dropout_prob", 0.1) > 0:
        # as recorded: the first sample twice, at t = 250, with class 1 and with none
        pair, time = torch.stack([x[0], x[0]]), torch.full((2,), 250, device=x.device)
        labels = torch.tensor([1, module.num_classes], device=x.device)
        outputs["out_cfg"] = module.forward_with_cfg(pair, time, labels, 4.0)
    return outputs


components = {
    "DiT": Component(
        run=_run_dit,
        build=_build_dit,
        convert=converted_by(_build_dit, layouts, "official"),
        batch={"x": 0, "t": 0, "y": 0, "out": 0},
        unused=("pos_embed",),
    ),
    "TransNeXt": Component(
        run=_run_transnext,
        build=_build_transnext,
        convert=converted_by(_build_transnext, layouts, "official"),
        batch={"x": 0, "logits": 0, "features": 0},
    ),
}
