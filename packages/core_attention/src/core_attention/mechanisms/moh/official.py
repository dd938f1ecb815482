"""Components of MoH: the attentions of MoH-DiT, MoH-ViT and MoH-LLaMA3."""

from collections.abc import Sequence
from typing import Any

from core_attention.mechanisms.moh.attention import MoHAttention
from core_attention.mechanisms.moh.llama import MoHLlamaAttention, MoHLlamaLayer
from core_attention.mechanisms.moh.vit import Coordinates, MoHAggregatedAttention, MoHCosineAttention
from core_attention.registry.systems import Component, Config, StateDict, same


def _routed(official: StateDict, config: Config) -> StateDict:
    """The published router's layers stand in the attention itself; ours are in a module of their own."""
    names = [key for key in official if key.split(".")[0] in ("wg", "wg_0", "wg_1")]
    return {f"router.{key}": official.pop(key) for key in names} | same(official, config)


def _no_dropout(config: Config, mode: str) -> None:
    """Dropout, which no released configuration of the attentions has, is left out; in evaluation it is nothing."""
    names = ("attn_drop", "proj_drop", "attention_dropout")
    rates = {name: config[name] for name in names if config.get(name)}
    if rates and mode == "train":
        raise ValueError(f"these attentions have no dropout in training, got {rates}")


def _build_dit(config: Config) -> MoHAttention:
    return MoHAttention(
        config["dim"],
        config.get("num_heads", 8),
        shared=config["shared_head"],
        routed=config["routed_head"],
        head_dim=config.get("head_dim"),
        bias=config.get("qkv_bias", False),
        gate_scale=config.get("gate_scale", "code"),
    )


def _grid(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return size[0], size[1]


def _pretrain_grid(config: Config) -> tuple[int, int] | None:
    size = config.get("pretrain_size")
    return _grid(size) if size else None


def _heads_and_grid(config: Config) -> dict[str, Any]:
    """What both attentions of the vision transformers take."""
    return {
        "shared": config["shared_head"],
        "routed": config["routed_head"],
        "bias": config.get("qkv_bias", True),
        "pretrain": _pretrain_grid(config),
    }


def _build_cosine(config: Config) -> MoHCosineAttention:
    return MoHCosineAttention(
        config["dim"],
        config.get("num_heads", 8),
        _grid(config["input_resolution"]),
        **_heads_and_grid(config),
    )


def _build_aggregated(config: Config) -> MoHAggregatedAttention:
    return MoHAggregatedAttention(
        config["dim"],
        config.get("num_heads", 8),
        _grid(config["input_resolution"]),
        **_heads_and_grid(config),
        window=config.get("window_size", 3),
        pool=config.get("sr_ratio", 1),
    )


def _llama(config: Config) -> dict:
    heads = config["num_attention_heads"]
    return {
        "num_kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": config.get("head_dim"),
        "shared": config.get("shared_heads"),
        "routed": config.get("routed_heads"),
        "theta": config.get("rope_theta", 500000.0),
        "bias": config.get("attention_bias", False),
    }


def _build_llama(config: Config) -> MoHLlamaAttention:
    return MoHLlamaAttention(config["hidden_size"], config["num_attention_heads"], **_llama(config))


def _build_layer(config: Config) -> MoHLlamaLayer:
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"the layers of MoH-LLaMA3 are SwiGLU (silu), got hidden_act {config['hidden_act']!r}")
    return MoHLlamaLayer(
        config["hidden_size"],
        config["num_attention_heads"],
        inner=config["intermediate_size"],
        eps=config.get("rms_norm_eps", 1e-5),
        **_llama(config),
    )


def _dit(module, inputs, *, config, mode):
    _no_dropout(config, mode)
    y, loss = module(inputs["x"])
    return {"y": y, "aux_loss": loss}


def _vit(module, inputs, *, config, mode):
    _no_dropout(config, mode)
    coordinates = None
    if "relative_pos_index" in inputs:
        coordinates = Coordinates(inputs["relative_pos_index"], inputs["relative_coords_table"])
    y, loss = module(inputs["x"], coordinates=coordinates)
    return {"y": y, "aux_loss": loss}


def _decoder(module, inputs, *, config, mode):
    _no_dropout(config, mode)
    mask = inputs.get("attention_mask")
    if mask is not None:
        additive = mask.is_floating_point() and mask.ndim == 4  # transformers adds a mask of four axes to the scores
        mask = mask == 0 if additive else mask.bool()
    y, loss = module(inputs["x"], positions=inputs.get("position_ids"), mask=mask)
    return {"y": y, "aux_loss": loss}


_BATCH = {"x": 0, "y": 0}


components = {
    "AggregatedAttention": Component(run=_vit, build=_build_aggregated, convert=_routed, batch=_BATCH),
    "Attention": Component(run=_vit, build=_build_cosine, convert=_routed, batch=_BATCH),
    "LlamaAttention": Component(run=_decoder, build=_build_llama, batch={**_BATCH, "position_ids": 0}),
    "LlamaDecoderLayer": Component(run=_decoder, build=_build_layer, batch={**_BATCH, "position_ids": 0}),
    "MoHAttention": Component(run=_dit, build=_build_dit, convert=_routed, batch=_BATCH),
}
