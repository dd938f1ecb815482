"""lim142857/Sparsifiner: src/models/sparsifiner.py (MaskPredictor). The networks are registered by the package that holds the backbones."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.sparsifiner.predictor import MaskPredictor
from core_attention.registry.systems import Component, Config, StateDict


def predictor_options(config: Config) -> dict[str, Any]:
    """Our options of `MaskPredictor` from the official constructor arguments and their nested ``cfg``."""
    names = ("num_tokens", "attn_keep_rate", "reduce_n_factor", "reduce_c_factor", "share_inout_proj")
    spar = config["cfg"]["SPAR"]
    coefficients, scores = spar["BASIS_COEF"], spar["ATTN_SCORE"]
    return {name: config[name] for name in names if name in config} | {
        "basis_threshold": spar["BASIS_THRESHOLD"],
        "coef_topk": coefficients["TOPK"] if coefficients["USE_TOPK"] else None,
        "coef_threshold": coefficients["THRESHOLD"],
        "score_threshold": None if scores["USE_TOPK"] else scores["THRESHOLD"],
        "prune_rows": spar.get("PRUNE_ATTN_MATRIX_ROW", False),
        "budget_of": "first",
    }


def _build(config: Config) -> nn.Module:
    heads, scale = config.get("num_heads", 8), config.get("qk_scale") or None
    return MaskPredictor(config["dim"], num_heads=heads, scale=scale, **predictor_options(config))


def _convert(official: StateDict, config: Config) -> StateDict:
    """The official names; a shared basis is stored under both of its names."""
    ours = dict(official)
    official.clear()
    if config.get("share_inout_proj"):
        ours["proj_back_n"] = ours["proj_n"]
    return ours


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    warm_up = mode == "train" and config["cfg"]["LOSS"]["USE_ATTN_RECON"]
    alive = inputs.get("token_mask")
    alive = None if alive is None else alive.bool()
    connections = module(inputs["q"], inputs["k"], token_mask=alive, warm_up=warm_up)
    sparsity = connections.sparsity()
    return {
        "basis_coef": connections.coefficients,
        "approx_attn": connections.scores,
        "attn_mask": connections.mask.to(connections.scores.dtype),
        "basis_sparsity": sparsity["basis"],
        "basis_coef_sparsity": sparsity["coefficients"],
        "attn_mask_sparsity": sparsity["mask"],
    }


components = {"MaskPredictor": Component(run=_run, build=_build, convert=_convert)}
