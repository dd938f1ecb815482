"""MVPFormer (arXiv 2506.20354): its attention layer. The model around it belongs to the domain that reads recordings."""

from typing import Any

from torch import Tensor

from core_attention.mechanisms.mvpformer.mvpa import MVPFormerGQAAttention
from core_attention.registry.systems import Component, Config


def build(config: Config) -> MVPFormerGQAAttention:
    """The published configuration's names."""
    by_layer = config.get("scale_attn_by_inverse_layer_idx", False)
    lora_rank = config.get("lora_rank", 8) if config.get("lora", False) else 0
    return MVPFormerGQAAttention(
        config["n_embd"],
        num_heads=config["n_head"],
        num_kv_heads=config["n_head_kv"],
        content=config.get("global_att", True),
        window=config.get("window", 10),
        relative_index=config.get("relative_index", "official"),
        divisor=config["layer_idx"] + 1 if by_layer else 1,
        lora_rank=lora_rank,
        lora_alpha=config.get("lora_alpha", 16),
        attention_dropout=config.get("attn_pdrop", 0.0),
        residual_dropout=config.get("resid_pdrop", 0.0),
    )


def run(module: Any, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Tensor]:
    """The layer's output, its attention map, and with LoRA the merged weights."""
    arguments = inputs["hidden_states"], inputs["positional_embedding"], inputs["channel_embedding"]
    outputs = {"attn_output": module(*arguments), "attn_weights": module.weights(*arguments)}
    if config.get("lora", False):
        outputs["merged/q_attn.weight"] = module.q_attn.merged()
        outputs["merged/c_attn.weight"] = module.c_attn.merged()
    return outputs


components = {
    "MVPFormerGQAAttention": Component(
        run=run,
        build=build,
        ignore=("time_bias", "masked_bias"),
        batch={"hidden_states": 0, "attn_output": 0, "attn_weights": 0},
    )
}
