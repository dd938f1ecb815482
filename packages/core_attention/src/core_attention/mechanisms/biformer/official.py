"""rayleizhu/BiFormer: ops/bra_legacy.py, ops/bra_nchw.py, models/_common.py, models/biformer.py (the block).

The networks (BiFormer, BiFormerSTL) are registered by the package that holds the backbones.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core_attention.mechanisms.biformer.attention import BiLevelRoutingAttention
from core_attention.mechanisms.biformer.block import AttentionLePE, BiFormerBlock
from core_attention.registry.systems import Component, Config, StateDict

RENAMED = {"qkv.qkv.": "qkv.", "router.emb.": "router.", "qkv_linear.": "qkv.", "output_linear.": "wo."}


def attention_options(config: Config) -> dict[str, Any]:
    """Our options from the official constructor arguments of the legacy attention (also inside a block)."""
    names = (
        "num_heads", "n_win", "topk", "qk_dim", "side_dwconv", "kv_downsample_mode", "kv_per_win", "kv_downsample_ratio",
        "param_routing", "diff_routing", "soft_routing",
    )  # fmt: skip
    mode = config.get("param_attention", "qkvo")
    if mode not in ("qkvo", "qkv"):
        raise ValueError(f"param_attention is 'qkvo' or 'qkv', got {mode!r}")
    return {name: config[name] for name in names if name in config} | {
        "scale": config.get("qk_scale") or None,
        "pad_mode": "legacy" if config.get("auto_pad", False) else "refuse",
        "output": mode == "qkvo",
    }


def _build_legacy(config: Config) -> nn.Module:
    return BiLevelRoutingAttention(config["dim"], **attention_options(config))


def _build_nchw(config: Config) -> nn.Module:
    names = ("num_heads", "n_win", "topk", "side_dwconv")
    options = {name: config[name] for name in names if name in config}
    return BiLevelRoutingAttention(config["dim"], pad_mode="nchw", scale=config.get("qk_scale") or None, **options)


def _build_lepe(config: Config) -> nn.Module:
    names = ("num_heads", "qkv_bias", "side_dwconv")
    options = {name: config[name] for name in names if name in config}
    return AttentionLePE(config["dim"], scale=config.get("qk_scale") or None, **options)


def _build_block(config: Config) -> nn.Module:
    names = ("mlp_ratio", "mlp_dwconv", "before_attn_dwconv", "pre_norm", "drop_path")
    options = {name: config[name] for name in names if name in config}
    # the official block pools where its attention alone would not
    attention = {"kv_downsample_mode": "ada_avgpool", "side_dwconv": 5, "topk": 4, "num_heads": 8} | attention_options(
        config
    )
    side, topk = attention.pop("side_dwconv"), attention.pop("topk")
    start = config.get("layer_scale_init_value", -1)
    return BiFormerBlock(
        config["dim"], topk=topk, side_dwconv=side, layer_scale=start if start > 0 else None, **options, **attention
    )


def convert_attention(official: StateDict, config: Config) -> StateDict:
    """Joined projections under our names; 1×1 convolutions as the linear layers that they are."""
    ours: dict[str, Tensor] = {}
    for key in list(official):
        value, name = official.pop(key), key
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if name.endswith(("qkv.weight", "wo.weight")):
            value = value.flatten(1)
        ours[name] = value
    return ours


def convert_block(official: StateDict, config: Config) -> StateDict:
    """As `convert_attention`; the convolutions of `topk = 0` are counted without their permutations."""
    ours = convert_attention(official, config)
    if config.get("topk", 4) == 0:
        ours = {_shifted(key): value for key, value in ours.items()}
    return {key.replace("mlp.1.dwconv.", "mlp.1.0."): value for key, value in ours.items()}


def _shifted(key: str) -> str:
    parts = key.split(".")
    return f"attn.{int(parts[1]) - 1}.{parts[2]}" if parts[0] == "attn" else key


def _run_attention(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    y, routing = module(inputs["x"], return_routing=True)
    return {"y": y, "routing_index": routing.index, "routing_weight": routing.affinity.softmax(-1)}


def _run_nchw(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    y, routing = module(inputs["x"].permute(0, 2, 3, 1), return_routing=True)
    return {"y": y.permute(0, 3, 1, 2), "routing_index": routing.index}


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


BATCH = {"x": 0, "y": 0}


components = {
    "BiLevelRoutingAttention": Component(
        run=_run_attention, build=_build_legacy, convert=convert_attention, batch=BATCH
    ),
    "nchwBRA": Component(run=_run_nchw, build=_build_nchw, convert=convert_attention, batch=BATCH),
    "AttentionLePE": Component(run=_run, build=_build_lepe, batch=BATCH),
    "Block": Component(run=_run, build=_build_block, convert=convert_block, batch=BATCH),
}
