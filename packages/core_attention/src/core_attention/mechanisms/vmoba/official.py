"""KwaiVGI/VMoBA: src/vmoba.py (permutation, attention, permutation back); MoonshotAI/MoBA: moba_attn_varlen.

Both are functions. The published video form pools its groups over the packed batch, so `pool="packed"` is run here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core_attention.mechanisms.vmoba.attention import choose_blocks, mixture_of_blocks, partition
from core_attention.mechanisms.vmoba.moba import moba_attention_packed
from core_attention.registry.systems import Component, Config


def _chunk(config: Config) -> Any:
    chunk = config["chunk_size"]
    if isinstance(chunk, list):
        chunk = tuple(chunk)
    return chunk


def _run_vmoba(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    # published layout: (batch, tokens, heads, dim)
    q, k, v = inputs["q"].transpose(1, 2), inputs["k"].transpose(1, 2), inputs["v"].transpose(1, 2)
    grid = tuple(config["patch_resolution"])
    by_rank = config.get("select_mode", "threshold") == "topk"
    options = {
        "group": config.get("threshold_type", "query_head"),
        "tau": None if by_rank else config.get("simsum_threshold", 0.25),
        "topk": config["moba_topk"] if by_rank else None,
        "pool": "packed",
    }
    out = mixture_of_blocks(q, k, v, grid=grid, chunk=_chunk(config), **options)
    blocks = partition(grid, _chunk(config))
    selected = choose_blocks(blocks.permute(q), blocks.permute(k), blocks, **options)
    return {"out": out.transpose(1, 2), "selected": _pack(selected)}


def _pack(selected: Tensor) -> Tensor:
    """(batch, heads, tokens, blocks) → (blocks of the batch, heads, tokens of the batch), other samples' never selected."""
    batch, heads, tokens, blocks = selected.shape
    packed = selected.new_zeros(batch, blocks, heads, batch, tokens)
    for b in range(batch):
        packed[b, :, :, b] = selected[b].permute(2, 0, 1)
    return packed.view(batch * blocks, heads, batch * tokens).to(torch.uint8)


def _run_varlen(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    q, k, v, bounds = inputs["q"], inputs["k"], inputs["v"], inputs["cu_seqlens"]
    out = moba_attention_packed(q, k, v, bounds, block=config["moba_chunk_size"], topk=config["moba_topk"])
    return {"out": out}


components = {"vmoba": Component(run=_run_vmoba), "moba_attn_varlen": Component(run=_run_varlen)}
