"""Components of Scatterbrain: the features, the hash, and the attentions over windows and clusters."""

import torch

from core_attention.mechanisms.scatterbrain.attention import SBPerformerFeatures, ScatterbrainAttention
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.mechanisms.scatterbrain.lsh import (
    Clusters,
    SBSmyrfAttention,
    asymmetric_transform,
    lsh_clustering,
)
from core_attention.registry.systems import Component, Config, StateDict, same


def _build_features(config: Config) -> SBPerformerFeatures:
    return SBPerformerFeatures(
        config["query_dims"],
        config.get("n_features"),
        softmax_temp=config.get("softmax_temp"),
        eps=config.get("eps", 0.0),
        cosh=config.get("cosh", True),
        ortho_scaling=config.get("ortho_scaling", 0),
    )


def _features(module: SBPerformerFeatures, inputs, *, config, mode):
    features = module(inputs["q"], inputs["k"], key_mask=_key_mask(inputs, inputs["k"].shape[-2]))
    return {
        "q_prime": features.q,
        "q_log_scale": features.q_scale,
        "k_prime": features.k,
        "k_log_scale": features.k_scale,
    }


def _options(config: Config) -> dict:
    return {
        "features": config.get("nb_features"),
        "softmax_temp": config.get("softmax_temp"),
        "eps": config.get("softmax_eps", 0.0),
        "ortho_scaling": config.get("ortho_scaling", 0),
        "causal": config.get("causal", False),
        "dropout": config.get("attention_dropout", 0.0),
    }


def _build_local(config: Config) -> SBLocalAttention:
    return SBLocalAttention(config["dim_heads"], config["local_context"], **_options(config))


def _build_lsh(config: Config) -> SBSmyrfAttention:
    return SBSmyrfAttention(
        config["d_head"],
        hashes=config["n_hashes"],
        q_cluster=config["q_cluster_size"],
        k_cluster=config["k_cluster_size"],
        **_options(config),
    )


def _key_mask(inputs, keys: int):
    if "key_lengths" in inputs:
        return torch.arange(keys, device=inputs["key_lengths"].device) < inputs["key_lengths"][:, None]
    if "key_mask" in inputs:
        return inputs["key_mask"].bool()
    return None


def _attention(module: ScatterbrainAttention, inputs, *, config, mode):
    # published layout: (batch, length, heads, dim)
    q, k, v = inputs["q"].transpose(1, 2), inputs["k"].transpose(1, 2), inputs["v"].transpose(1, 2)
    mask = _key_mask(inputs, k.shape[2])
    choice = None
    if "q_positions" in inputs:  # what the hash drew when the case was recorded
        choice = Clusters(inputs["q_positions"], inputs["k_positions"])
    outputs = {"out": module(q, k, v, mask=mask, choice=choice).transpose(1, 2)}
    matrices = module.matrices(q, k, mask=mask, choice=choice)
    outputs |= {
        "attn": matrices.weights,
        "attn_unnormalized": matrices.unnormalised,
        "lowrank_unnormalized": matrices.lowrank,
    }
    pairs = module.pairs(choice, torch.arange(q.shape[2], device=q.device), k.shape[2])
    if pairs.ndim == 3:
        pairs = pairs.unflatten(0, q.shape[:2])
    else:
        pairs = pairs[None, None].expand(*q.shape[:2], -1, -1)
    if mask is not None:
        pairs = pairs & mask[:, None, None]
    return outputs | {"sparse_mask": pairs}


def _lsh(module, inputs, *, config, mode):
    q, k = asymmetric_transform(inputs["q"], inputs["k"])
    masks = {name: inputs[name].bool() for name in ("query_mask", "key_mask") if inputs.get(name) is not None}
    q_positions, k_positions = lsh_clustering(q, k, inputs["alpha"], inputs["beta"], **masks)
    return {"q_transformed": q, "k_transformed": k, "q_positions": q_positions, "k_positions": k_positions}


def _convert(prefix: str):
    """A projection that was never drawn is stored as zeros of another shape: then one is drawn, as the published module would."""

    def convert(official: StateDict, config: Config) -> StateDict:
        key = f"{prefix}projection_matrix"
        stored = official.get(key)
        if stored is not None and not stored.any():
            if not prefix:
                module = _build_features(config)
            elif "d_head" in config:
                module = _build_lsh(config)
            else:
                module = _build_local(config)
            official[key] = module.state_dict()[key].to(stored)
        return same(official, config)

    return convert


_LAYOUT = {"q": 0, "k": 0, "v": 0, "out": 0}


components = {
    "SBLocalAttention": Component(run=_attention, build=_build_local, convert=_convert("feature_map."), batch=_LAYOUT),
    "SBPerformerFeatures": Component(run=_features, build=_build_features, convert=_convert("")),
    "SBSmyrfAttention": Component(run=_attention, build=_build_lsh, convert=_convert("feature_map.")),
    "lsh_clustering": Component(run=_lsh),
}
