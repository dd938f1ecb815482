"""Titans (arXiv 2501.00663): the paper's memory and layers, and titans-pytorch's attention.

titans-pytorch's memory is declared in `core_attention.published.titans.official`.
"""

from typing import Any

from torch import Tensor, nn

from core_attention.mechanisms.titans.attention import SegmentedAttention
from core_attention.mechanisms.titans.layers import titans_layer
from core_attention.mechanisms.titans.recurrence import neural_memory
from core_attention.registry.systems import Component, Config, StateDict

# --- the paper's recurrence


def run_paper_memory(module: None, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Tensor]:
    """One sequence, one head; every chunk size of the config."""
    depth = sum(name[0] == "W" and name[1:].isdigit() for name in inputs)
    q, k, v, alpha, eta, theta = (inputs[name][None, None] for name in ("q", "k", "v", "alpha", "eta", "theta"))
    weights = tuple(inputs[f"W{layer}"][None] for layer in range(depth))
    out: dict[str, Tensor] = {}
    for chunk in config["chunks"]:
        done = neural_memory(q, k, v, alpha=alpha, eta=eta, theta=theta, weights=weights, chunk_size=chunk)
        memory, momentum = done.state.memory, done.state.momentum
        assert done.y is not None
        assert memory is not None
        assert momentum is not None
        out |= {f"y_chunk{chunk}": done.y[0, 0], f"surprise_chunk{chunk}": done.surprise[0, 0]}
        for layer in range(depth):
            out[f"M{layer}_chunk{chunk}"] = memory[layer][0, 0]
            out[f"S{layer}_chunk{chunk}"] = momentum[layer][0, 0]
    return out


# --- titans-pytorch's attention


SEGMENTED_ATTENTION = {  # their arguments and ours
    "segment_len": "segment_len",
    "num_longterm_mem_tokens": "num_longterm_mem_tokens",
    "num_persist_mem_tokens": "num_persist_mem_tokens",
    "dim_head": "head_dim",
    "heads": "num_heads",
    "sliding": "sliding",
    "accept_value_residual": "accept_value_residual",
}


def segmented_attention(config: Config) -> SegmentedAttention:
    """titans-pytorch's arguments."""
    options = {ours: config[theirs] for theirs, ours in SEGMENTED_ATTENTION.items() if theirs in config}
    return SegmentedAttention(config["dim"], **options)


def segmented_attention_keys(official: StateDict, config: Config) -> StateDict:
    """One key has another name."""
    ours = {
        key.replace("to_learned_v_mix.0.", "to_v_mix."): value
        for key, value in official.items()
        if key != "rotary_emb.freqs"
    }
    for key in [key for key in official if key != "rotary_emb.freqs"]:
        del official[key]
    return ours


def run_segmented_attention(module: Any, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Tensor]:
    x, first = inputs["x"], inputs.get("value_residual")
    first = None if first is None else first[:, :, : x.shape[1]]  # published values are padded to whole blocks
    y, values = module(x, first_values=first, return_values=True)
    if "output_gating" in inputs:
        y = y * inputs["output_gating"]
    return {"y": y, "values": values}


# --- the paper's layers


def paper_layer(config: Config) -> nn.Module:
    """The fixed reading of the specification: one memory head, unclamped; a memory's chunk is the segment."""
    return titans_layer(
        config["variant"],
        config["dim"],
        window=config["segment"],
        num_heads=config.get("heads", 1),
        num_persistent=config["num_persistent"],
        read=config.get("mac_output_read", "segment_end"),
        depth=config["memory_depth"],
        expansion=config["expansion"],
        theta_max=config["theta_max"],
        max_grad_norm=None,
    )


PAPER_LINEARS = {
    "Wq": "attention.to_q",
    "Wk": "attention.to_k",
    "Wv": "attention.to_v",
    "Wo": "attention.out",
    "Wq_mem": "memory.to_q",
    "Wk_mem": "memory.to_k",
    "Wv_mem": "memory.to_v",
}


def paper_layer_keys(official: StateDict, config: Config) -> StateDict:
    """x W in the paper's notation is a Linear of the transpose; the memory alone has no branches."""
    inside = "" if config["variant"] == "lmm" else "memory."
    ours: StateDict = {}
    for theirs, name in PAPER_LINEARS.items():
        if theirs in official and (inside or theirs.endswith("_mem")):
            ours[(name if inside else name.removeprefix("memory.")) + ".weight"] = official.pop(theirs).mT
    for gate in ("alpha", "eta", "theta"):
        ours[f"{inside}to_{gate}.weight"] = official.pop(f"w_{gate}")[None]
        ours[f"{inside}to_{gate}.bias"] = official.pop(f"b_{gate}")[None]
    for key in [key for key in official if key.startswith("M0_")]:
        ours[f"{inside}memory.{key[3:]}"] = official.pop(key)[None]
    if inside:
        ours["persistent"] = official.pop("persist")
    if config["variant"] in ("mac", "mag"):
        ours |= {"gate.core_norm.weight": official.pop("g1"), "gate.memory_norm.weight": official.pop("g2")}
    return ours


def run_paper_layer(module: Any, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Tensor]:
    """One sequence without batch axis, and the state that it leaves."""
    cache = module.new_cache()
    out = {"o": module(inputs["x"][None], cache=cache)[0]}
    memory = cache if config["variant"] == "lmm" else cache.memory
    for layer, (m, s) in enumerate(zip(memory.memory, memory.momentum, strict=True)):
        out |= {f"M_final_{layer}": m[0, 0], f"S_final_{layer}": s[0, 0]}
    return out


components = {
    "SegmentedAttention": Component(
        run=run_segmented_attention,
        build=segmented_attention,
        convert=segmented_attention_keys,
        ignore=("rotary_emb.freqs",),  # always theta^(−2m/dim)
        batch={"x": 0, "value_residual": 0, "y": 0, "values": 0},
    ),
    "paper_NeuralMemory": Component(run=run_paper_memory),
    "paper_layer": Component(
        run=run_paper_layer,
        build=paper_layer,
        convert=paper_layer_keys,
        # recorded for every variant, without a place where there is no gate or no attention
        ignore=("g1", "g2", "Wq", "Wk", "Wv", "Wo", "persist"),
    ),
}
