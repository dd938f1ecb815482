"""The published landmark models, replayed and converted under their official names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from core_attention.registry.systems import Component, Config, StateDict, same
from language_models.model.causal import next_token_loss
from language_models.model.landmark import (
    LandmarkConfig,
    LandmarkForCausalLM,
    LandmarkGPTConfig,
    LandmarkGPTForCausalLM,
)

LLAMA = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("rope_theta", "mem_id", "mem_freq", "train_context_length", "include_landmark_in_loss"),
    *("cache_top_k", "offload_cache_to_cpu", "initializer_range"),
)  # fmt: skip


def llama_config(config: Config) -> LandmarkConfig:
    """The published configuration (``model_type: llama_with_landmark``)."""
    return LandmarkConfig(**{name: config[name] for name in LLAMA if config.get(name) is not None})


def gpt_config(config: Config) -> LandmarkGPTConfig:
    """The arguments of the published small model."""
    if config.get("softmax_func", "mem_opt") not in ("mem", "mem_opt"):
        raise ValueError(f"softmax_func {config['softmax_func']!r} has no landmarks: mem or mem_opt")
    if config.get("positional_encoder", "rotary") != "rotary" or config.get("enable_rem_score"):
        raise ValueError("only rotary positions without a remainder score are held here")
    return LandmarkGPTConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["n_embd"],
        num_hidden_layers=config["n_layer"],
        num_attention_heads=config["n_head"],
        bias=config.get("bias", False),
        mem_id=config["landmark_id"],
        mem_freq=config.get("mem_cache_freq", config.get("mem_freq", 50)),
        train_context_length=config.get("sequence_length", 512),
        cache_top_k=config.get("cache_topk", 4),
        selection=config.get("cache_selection_method", "per_token_and_head"),
        memory_blocks=config.get("mem_cache_size"),
        group_dropout=config.get("group_dropout") or 0.0,
        pos_jump=config.get("pos_jump_on_mem"),
    )


def convert_llama(official: StateDict, config: Config) -> StateDict:
    """LLaMA's names; a tied head stands once."""
    if config.get("tie_word_embeddings"):
        official.pop("lm_head.weight", None)
    return same(official, config)


def convert_gpt(official: StateDict, config: Config) -> StateDict:
    """Queries, keys and values apart; the head is the embedding."""
    ours: StateDict = {}
    if "lm_head.weight" in official:
        ours["model.embed_tokens.weight"] = official.pop("lm_head.weight")
        official.pop("transformer.wte.weight", None)
    for key in list(official):
        parts = key.removeprefix("transformer.").split(".")
        if parts[0] == "wte":
            ours["model.embed_tokens.weight"] = official.pop(key)
        elif parts[0] == "ln_f":
            ours[f"model.norm.{parts[1]}"] = official.pop(key)
        elif parts[0] == "h" and parts[2] == "attn" and parts[3] in ("c_attn", "c_proj"):
            place = f"model.layers.{parts[1]}.self_attn"
            if parts[3] == "c_proj":
                ours[f"{place}.o_proj.{parts[4]}"] = official.pop(key)
                continue
            for name, piece in zip(("q", "k", "v"), official.pop(key).chunk(3), strict=True):
                ours[f"{place}.{name}_proj.{parts[4]}"] = piece
        elif parts[0] == "h" and parts[2] in ("ln_1", "ln_2", "mlp"):
            ours[f"model.layers.{parts[1]}.{'.'.join(parts[2:]).removeprefix('mlp.')}"] = official.pop(key)
    return ours


def run_llama(module: LandmarkForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    """Training: the ids hold their landmarks."""
    ids = inputs["input_ids"]
    logits = module.lm_head(module.model.read(ids, is_landmark=ids == module.config.mem_id))
    labels = inputs.get("labels", ids)
    if not module.config.include_landmark_in_loss:
        labels = labels.masked_fill(labels == module.config.mem_id, -100)
    return {"logits": logits, "loss": next_token_loss(logits, labels)}


def run_generate(
    module: LandmarkForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str
) -> dict[str, Any]:
    """The prompt in chunks, then one token at a time, as `generate` does."""
    ids, prompt = inputs["input_ids"], int(inputs["prompt_len"])
    cache = module.new_cache()
    steps = [module(ids[:, :prompt], cache=cache, logits_to_keep=1).logits]
    for place in range(prompt, ids.shape[1]):
        steps.append(module(ids[:, place : place + 1], cache=cache).logits)
    return {"step_logits": torch.cat(steps, 1)}


def run_gpt(module: LandmarkGPTForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    """Training: the ids hold their landmarks; targets are given, −1 is left out."""
    ids = inputs["idx"]
    logits = module.lm_head(module.model.read(ids, is_landmark=ids == module.config.mem_id))
    outputs = {"logits": logits}
    if "targets" in inputs:
        outputs["loss"] = F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten(), ignore_index=-1)
    return outputs


def run_cached(
    module: LandmarkGPTForCausalLM, inputs: Mapping[str, Any], *, config: Config, mode: str
) -> dict[str, Any]:
    """Plain ids in chunks of `mid_length`."""
    ids = inputs["idx"]
    cache = module.new_cache()
    logits, losses = [], []
    for start in range(0, ids.shape[1], config["mid_length"]):
        part = slice(start, start + config["mid_length"])
        hidden = module.model(ids[:, part], cache_layers(module, cache, len(ids), ids))[0]
        logits.append(module.lm_head(hidden))
        if "targets" in inputs:
            targets = inputs["targets"][:, part].flatten()
            losses.append(F.cross_entropy(logits[-1].flatten(0, 1), targets, ignore_index=-1))
    outputs = {"logits": torch.cat(logits, 1)}
    if losses:
        outputs["loss_per_chunk"] = torch.stack(losses)
    return outputs


def cache_layers(module: nn.Module, cache: Any, batch: int, ids: torch.Tensor) -> Any:
    """The core caches of a batch without padding."""
    cache.begin(batch, ids.device)
    return cache.groups[0].layers


_GPT = {
    "build": lambda config: LandmarkGPTForCausalLM(gpt_config(config)),
    "convert": convert_gpt,
    "ignore": ("transformer.wpe.freqs", "transformer.h.*.attn.bias"),
}
_LLAMA = {
    "build": lambda config: LandmarkForCausalLM(llama_config(config)),
    "convert": convert_llama,
    "ignore": ("model.layers.*.self_attn.rotary_emb.inv_freq",),
}


components = {
    "GPTBase": Component(run=run_gpt, batch={"idx": 0, "targets": 0, "logits": 0}, **_GPT),
    "GPTBase_cached": Component(run=run_cached, batch={"idx": 0, "targets": 0, "logits": 0}, **_GPT),
    "LlamaForCausalLM": Component(run=run_llama, batch={"input_ids": 0, "labels": 0, "logits": 0}, **_LLAMA),
    "LlamaForCausalLM_generate": Component(run=run_generate, batch={"input_ids": 0, "step_logits": 0}, **_LLAMA),
}
