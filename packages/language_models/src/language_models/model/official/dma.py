"""Doge of transformers, replayed and converted under its official names."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.registry.systems import Component, Config, StateDict, same
from language_models.model.causal import next_token_loss
from language_models.model.doge import DogeConfig, DogeForCausalLM
from language_models.model.rows import find_rows

FACTS = ("model_type", "architectures", "auto_map", "transformers_version")


def config_of(config: Config) -> DogeConfig:
    """transformers' configuration; published checkpoints route experts as transformers does."""
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"Doge's feed-forward parts are SwiGLU (silu), got hidden_act {config['hidden_act']!r}")
    given = {name: value for name, value in config.items() if name not in FACTS}
    options: dict[str, Any] = {"router": "transformers", **given}
    return DogeConfig(**options)


def build(config: Config) -> nn.Module:
    """The model; official configurations say with `tie_word_embeddings` whether the head is the embedding."""
    return DogeForCausalLM(config_of(config))


def convert(official: StateDict, config: Config) -> StateDict:
    """Names are the same; a tied head stands once."""
    if config.get("tie_word_embeddings"):
        official.pop("lm_head.weight", None)
    return same(official, config)


def run(module: DogeForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    states: dict[str, Any] = {}

    def keep(name: str, x: Any) -> None:
        states[name] = x if mask is None else find_rows(mask.bool()).put_back(x)

    hooks = []
    for i, layer in enumerate(module.model.layers):
        attention = layer.self_attn
        hooks.append(attention.register_forward_pre_hook(lambda _, args, i=i: keep(f"attn_in.{i}", args[0])))
        hooks.append(attention.register_forward_hook(lambda _, args, y, i=i: keep(f"attn_out.{i}", y)))
    try:
        output = module(ids, attention_mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    loss = next_token_loss(output.logits, inputs.get("labels", ids), None if mask is None else mask.bool())
    return {"logits": output.logits, "loss": loss, **states}


components = {
    "DogeForCausalLM": Component(
        run=run,
        build=build,
        convert=convert,
        ignore=("model.rotary_emb.*",),
        batch={"input_ids": 0, "attention_mask": 0, "logits": 0},
    )
}
