"""titans-pytorch's NeuralMemory (lucidrains/titans-pytorch, MIT); the paper stands in `core_attention.mechanisms.titans.official`."""

from typing import Any

import torch

from core_attention.published.titans.memory import PublicNeuralMemory
from core_attention.registry.systems import Component, Config, StateDict

ARGUMENTS = (
    *("dim", "chunk_size", "batch_size", "num_kv_per_token", "activation"),
    *("default_step_transform_max_lr", "per_parameter_lr_modulation", "max_mem_layer_modulation", "max_grad_norm"),
    *("momentum", "momentum_order", "learned_momentum_combine", "learned_combine_include_zeroth"),
    *("pre_rmsnorm", "post_rmsnorm", "qk_rmsnorm", "attn_pool_chunks", "per_head_learned_parameters"),
    *("qkv_receives_diff_views", "accept_weight_residual", "spectral_norm_surprises", "gated_transition"),
    *("mem_model_norm_add_residual", "init_adaptive_step_bias", "init_momentum_bias", "init_decay_bias"),
)


RENAMED = {"heads": "num_heads", "dim_head": "head_dim"}


def build(config: Config) -> PublicNeuralMemory:
    """titans-pytorch's arguments; its nested `default_model_kwargs` hold depth and expansion_factor, its activation is a module."""
    given = {name: config[name] for name in ARGUMENTS if name in config}
    if given.get("activation") is not None:
        given["activation"] = given["activation"].removeprefix("nn.").removesuffix("()").lower()
    for theirs, ours in RENAMED.items():
        if theirs in config:
            given[ours] = config[theirs]
    return PublicNeuralMemory(**given, **config.get("default_model_kwargs", {}))


KEYS = {
    "to_queries.0.": "to_queries.",
    "to_keys.0.": "to_keys.",
    "to_values.0.": "to_values.",
    "to_adaptive_step.0.": "to_adaptive_step.",
    "to_momentum.0.": "to_momentum.",
    "to_decay_factor.0.": "to_decay_factor.",
    "to_layer_modulation.0.": "to_modulation.",
    "to_learned_momentum_combine.0.": "to_momentum_combine.",
    "to_learned_weight_residual_mix.0.": "to_residual_mix.",
    "reduce_to_chunk_rep.to_attn_logits.": "pool.",
    "retrieve_gate.0.": "retrieve_gate.",
}


def convert(official: StateDict, config: Config) -> StateDict:
    """Published keys to ours. The memory's tensors are numbered, the gain first where there is one."""
    ours: StateDict = {}
    first = 1 if config.get("mem_model_norm_add_residual", True) else 0
    shared = not config.get("per_head_learned_parameters", True)
    for key in [key for key in official if not key.startswith("memory_model.")]:
        value = official.pop(key)
        if key.startswith("memory_model_parameters."):
            number = int(key.rsplit(".", 1)[1])
            ours["memory_gain" if number < first else f"memory.{number - first}"] = value[None] if shared else value
            continue
        for theirs, name in KEYS.items():
            if key.startswith(theirs):
                key = name + key[len(theirs) :]
        ours[key] = value
    return ours


def run(module: Any, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    """One call on the whole sequence, and one in the pieces of `chain`."""
    x, mask = inputs["x"], inputs.get("store_mask")
    prev = tuple(inputs[key] for key in sorted(inputs) if key.startswith("prev_weights")) or None
    cache = module.new_cache()
    out = {
        "retrieved": module(x, mask=mask, cache=cache, prev_weights=prev),
        "surprise": cache.surprise,
        "adaptive_lr": cache.rate,
    }
    matrices = [f"model.weights.{i}" for i in range(len(module.memory))]
    names = [*matrices, *([] if module.memory_gain is None else ["norm.gamma"])]
    if module.memory_gain is None:
        names = [name.removeprefix("model.") for name in names]
    for i, name in enumerate(names):
        out[f"final_memory/{name}"] = cache.memory[i].flatten(0, 1)
        if cache.momentum is not None:
            out[f"final_momentum/{name}"] = torch.stack(cache.momentum[i :: len(names)]).flatten(1, 2)
    if "chain" in config:
        state, pieces, start = module.new_cache(), [], 0
        for length in config["chain"]:
            part = slice(start, start + length)
            pieces.append(
                module(x[..., part, :], mask=None if mask is None else mask[:, part], cache=state, prev_weights=prev)
            )
            start += length
        out["retrieved_chained"] = torch.cat(pieces, 1)
    return out


components = {
    "NeuralMemory": Component(
        run=run,
        build=build,
        convert=convert,
        ignore=("memory_model.*",),
        batch={"x": 0, "store_mask": 0, "retrieved": 0, "surprise": 0, "adaptive_lr": 0},
    ),
}
