"""The language model of Deconstructing Attention under the names of its worked examples."""

from collections.abc import Mapping
from typing import Any

import torch

from core_attention.registry.systems import Component, Config, StateDict
from language_models.model.causal import next_token_loss
from language_models.model.deconstructed import DeconstructedConfig, DeconstructedForCausalLM

STREAMS = ("fixed_embeddings", "fixed_tokens")


def build(config: Config) -> DeconstructedForCausalLM:
    """The model; the length of its fixed stream, which the configuration does not say, comes with the state (`StreamedModel`)."""
    return StreamedModel(
        DeconstructedConfig(
            vocab_size=config["vocab"],
            hidden_size=config["hidden"],
            intermediate_size=config["intermediate"],
            num_hidden_layers=len(config["kinds"]),
            num_attention_heads=config["heads"],
            kinds=list(config["kinds"]),
            rms_norm_eps=config.get("rms_eps", 1e-6),
            rope_theta=config.get("rope_theta", 10000.0),
            approx_form=config.get("approx_form", "joint_outer"),
            approx_rope=config.get("approx_rope", True),
            qkv_bias=config.get("qkv_bias", True),
            static_norm=config.get("static_norm", True),
            tie_word_embeddings=config.get("tie_embeddings", False),
            fixed_length=config.get("fixed_length", 1),
        )
    )


class StreamedModel(DeconstructedForCausalLM):
    """The model whose fixed stream is not there until one is loaded, of whatever length."""

    def __init__(self, config: DeconstructedConfig) -> None:
        super().__init__(config)
        for name in STREAMS:
            if hasattr(self.model, name):
                setattr(self.model, name, None)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name in STREAMS:
            stored = state_dict.get(f"{prefix}model.{name}")
            if stored is not None and hasattr(self.model, name):
                setattr(self.model, name, torch.empty_like(stored))
                self.config.fixed_length = len(stored)
        super()._load_from_state_dict(state_dict, prefix, *args)


def convert(official: StateDict, config: Config) -> StateDict:
    """The stack's names get its prefix; a tied head stands once."""
    ours: StateDict = {}
    if config.get("tie_embeddings"):
        official.pop("lm_head.weight", None)
    for key in list(official):
        name = key if key.startswith("lm_head.") else f"model.{key}"
        ours[name] = official.pop(key)
    return ours


def run(module: DeconstructedForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    tokens = inputs["tokens"]
    output = module(tokens)
    maps = {f"attn_map_layer{i}": x for i, x in module.attention_maps(tokens).items()}
    return {"logits": output.logits, "loss": next_token_loss(output.logits, inputs.get("labels", tokens)), **maps}


components = {"LanguageModel": Component(run=run, build=build, convert=convert, batch={"tokens": 0, "logits": 0})}
