"""titans-pytorch's MemoryAsContextTransformer, replayed and converted under its official names."""

from collections.abc import Mapping
from typing import Any

from core_attention.published.titans import official as memory
from core_attention.registry.systems import Component, Config, StateDict
from language_models.model.causal import next_token_loss
from language_models.model.titans_lr import TitansLRForCausalLM, config_from_official

OUTER = {
    "token_emb.": "model.embed_tokens.",
    "axial_pos_emb.": "model.positions.",
    "norm.": "model.norm.",
    "to_logits.": "lm_head.",
}
IN_LAYER = {
    "3.0.": "views.norm.",
    "3.1.": "views.proj.",
    "5.norm.": "attention.norm.",
    "5.to_qkv.": "attention.to_qkv.",
    "5.to_out.": "attention.to_out.",
    "5.persistent_memory": "attention.persistent_memory",
    "5.to_learned_v_mix.0.": "attention.to_v_mix.",
    "6.0.": "feed_forward.norm.",
    "6.1.": "feed_forward.proj_in.",
    "6.3.": "feed_forward.proj_out.",
}


def build(config: Config) -> TitansLRForCausalLM:
    """The model, of titans-pytorch's arguments."""
    return TitansLRForCausalLM(config_from_official(config))


def convert(official: StateDict, config: Config) -> StateDict:
    """Published keys to ours; a layer's parts are numbered, its memory has names of its own."""
    ours: StateDict = {}
    if "longterm_mems" in official:
        ours["model.longterm"] = official.pop("longterm_mems")
    for key in [key for key in official if key.startswith(tuple(OUTER))]:
        prefix = next(prefix for prefix in OUTER if key.startswith(prefix))
        ours[OUTER[prefix] + key.removeprefix(prefix)] = official.pop(key)
    options = {**(config.get("neural_memory_kwargs") or {})}
    for layer in range(config["depth"]):
        theirs = f"layers.{layer}."
        own = f"model.layers.{layer}."
        inside: StateDict = {}
        for key in [key for key in official if key.startswith(f"{theirs}4.") and ".memory_model." not in key]:
            inside[key.removeprefix(f"{theirs}4.")] = official.pop(key)
        for key, value in memory.convert(inside, options).items():
            ours[f"{own}memory.{key}"] = value
        for key in [key for key in official if key.startswith(theirs)]:
            for prefix, name in IN_LAYER.items():
                if key.startswith(theirs + prefix):
                    ours[own + name + key.removeprefix(theirs + prefix)] = official.pop(key)
                    break
    return ours


def run(module: TitansLRForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    ids = inputs["ids"]
    logits = module(ids).logits
    return {"logits": logits, "loss": next_token_loss(logits, ids)}


components = {
    "MemoryAsContextTransformer": Component(
        run=run,
        build=build,
        convert=convert,
        ignore=("layers.*.4.memory_model.*", "layers.*.5.rotary_emb.freqs", "zero"),
        # the last layer's long-term tokens feed nothing behind it
        batch={"ids": 0, "logits": 0},
    )
}
