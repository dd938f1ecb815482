"""Components of Landmark Attention: the grouped softmax, the fused kernel's statement, and the memory's store."""

import torch
from torch.nn import functional as F

from core_attention.mechanisms.landmark.attention import grouped_softmax, landmark_attention
from core_attention.mechanisms.landmark.memory import LandmarkMemory
from core_attention.registry.systems import Component


def _grouped_softmax(module, inputs, *, config, mode):
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    probs, share = grouped_softmax(scores, inputs["is_landmark"].bool())
    # the published table has a fixed number of slots, the local group in the last one
    groups, local = share[..., :-1], share[..., -1:]
    slots = config.get("max_mem_cnt", 16)
    return {
        "probs": probs,
        "out": probs @ v,
        "group_prob": torch.cat([F.pad(groups, (0, slots - 1 - groups.shape[-1])), local], -1),
    }


def _fused(module, inputs, *, config, mode):
    out = landmark_attention(
        inputs["q"], inputs["k"], inputs["v"], block=config.get("block_size", config["mem_freq"] + 1), backend="blocks"
    )
    return {"out": out}


def _storage(module, inputs, *, config, mode):
    memory = LandmarkMemory(
        config["mem_cache_freq"] + 1,
        config["cache_topk"],
        choice=config["cache_selection_method"],
        capacity=config["mem_cache_size"],
        pairing="interleaved",
    )
    for i in range(sum(name.startswith("keys.") for name in inputs)):
        memory.store(inputs[f"keys.{i}"], inputs[f"values.{i}"])
    prefix = memory.retrieve(inputs["q"])
    return {
        "scores": prefix.scores,
        "values": prefix.values,
        "is_landmark": prefix.is_landmark,
        "start_index": torch.tensor([prefix.start]),
    }


components = {
    "MemLMCacheStorage": Component(run=_storage),
    "fused_reference": Component(run=_fused),
    "landmark_grouped_softmax": Component(run=_grouped_softmax),
}
