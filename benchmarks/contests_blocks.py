"""Contests of bi-level routing, mixture of blocks and Sparsifiner."""

from __future__ import annotations

import torch
from core_routed import Contest, Growth
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.measuring.bench import SoftmaxAttention
from core_attention.mechanisms.biformer.attention import (
    BiLevelRoutingAttention,
    bi_level_routing_attention,
    bi_level_routing_attention_reference,
)
from core_attention.mechanisms.biformer.regions import to_regions
from core_attention.mechanisms.sparsifiner.attention import SparsifinerAttention
from core_attention.mechanisms.vmoba.attention import MixtureOfBlocks, choose_blocks, mixture_of_blocks, partition
from core_attention.mechanisms.vmoba.block_selection import block_means, gate, select_blocks
from core_attention.mechanisms.vmoba.moba import moba_attention


class Gather(nn.Module):
    """Bi-level routing as published: one projection, k copies of the keys and values, LePE on a channels-first copy."""

    def __init__(self, ours: BiLevelRoutingAttention):
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        ours, (batch, height, width, dim), n = self.ours, x.shape, self.ours.n_win
        size = height // n, width // n
        q, k, v = (to_regions(t, size) for t in ours.qkv(x).chunk(3, -1))
        routing = ours._route(q, k, None)
        out = bi_level_routing_attention_reference(q, k, v, routing.index, num_heads=ours.num_heads, scale=ours.scale)
        back = (t.reshape(batch, n, n, *size, dim).transpose(2, 3).reshape(x.shape) for t in (out, v))
        out, image = back
        return ours.wo(out + ours.lepe(image.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1))  # type: ignore[misc]


class OnPixels(nn.Module):
    """Softmax attention over all pixels of a map."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.layer = SoftmaxAttention(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1, 2)).view(x.shape)


def bra(height: int, width: int, n_win: int = 7, topk: int = 4, *peers: str):
    """The layer at C = 64 and 2 heads; peers "gather", "full"."""

    def make(small: bool):
        torch.manual_seed(0)
        layer = BiLevelRoutingAttention(64, num_heads=2, n_win=n_win, topk=topk, side_dwconv=5).eval()
        x = torch.randn(1, 2 * n_win, 2 * n_win, 64) if small else torch.randn(1, height, width, 64)
        every = {"ours": layer, "gather": Gather(layer), "full": OnPixels(64, 2)}
        return {name: (every[name], (x,)) for name in ("ours", *peers)}

    return make


def bra_core(small: bool):
    """What is between projection and LePE alone, at 56 × 56."""
    torch.manual_seed(0)
    tokens = 4 if small else 64
    q, k, v = (torch.randn(1, 49, tokens, 64) for _ in range(3))
    index = torch.stack([torch.randperm(49)[:4] for _ in range(49)])[None]
    options = {"num_heads": 2, "scale": 64**-0.5}
    return {
        "ours": (lambda q, k, v: bi_level_routing_attention(q, k, v, index, **options), (q, k, v)),
        "gather": (lambda q, k, v: bi_level_routing_attention_reference(q, k, v, index, **options), (q, k, v)),
    }


def vmoba_selection(small: bool):
    """Gates given: the head-global threshold against sorting all of them."""
    torch.manual_seed(0)
    queries, blocks, heads = (240, 6, 2) if small else (13440, 60, 12)
    q, k = torch.randn(1, heads, queries, 128), torch.randn(1, heads, queries, 128)
    own = torch.arange(queries) // (queries // blocks)
    gates = gate(q, block_means(k, queries // blocks))
    return {
        "ours": (lambda g: select_blocks(g, own), (gates,)),
        "full sort": (lambda g: select_blocks(g, own, exact_sort=True), (gates,)),
    }


def video(grid: tuple[int, int, int], heads: int, *peers: str):
    """Selection and attention, blocks of 455 tokens at the published speed test's 21 × 30 × 52; peers "full", "dense"."""

    def make(small: bool):
        torch.manual_seed(0)
        sides = (4, 6, 8) if small else grid
        tokens = sides[0] * sides[1] * sides[2]
        chunk = 455 / (sides[1] * sides[2])
        inputs = tuple(torch.randn(1, heads, tokens, 128) for _ in range(3))

        def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            chosen = choose_blocks(q, k, partition(sides, chunk))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=chosen.repeat_interleave(455, 3)[..., :tokens])

        every = {
            "ours": lambda q, k, v: mixture_of_blocks(q, k, v, grid=sides, chunk=chunk),
            "full": F.scaled_dot_product_attention,
            "dense": dense,
        }
        return {name: (every[name], inputs) for name in ("ours", *peers)}

    return make


def causal(small: bool):
    """MoBA, blocks of 512, three a query, against full causal attention at 16,384 tokens."""
    torch.manual_seed(0)
    inputs = tuple(torch.randn(1, 4, 1024 if small else 16384, 64) for _ in range(3))
    return {
        "ours": (lambda q, k, v: moba_attention(q, k, v, block=512, topk=3), inputs),
        "full": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), inputs),
    }


def sparsifiner(tokens: int, keep: float):
    """A layer of Sparsifiner-S by both paths, and dense attention."""

    def make(small: bool):
        torch.manual_seed(0)
        n = 50 if small else tokens
        x = torch.randn(1, n, 384)
        made = {}
        for path in ("auto", "mask", "gather"):
            torch.manual_seed(0)
            options = {"num_heads": 6, "num_tokens": n, "reduce_n_factor": 6, "attn_keep_rate": keep, "qkv_bias": True}
            made[path] = (SparsifinerAttention(384, path=path, **options).eval(), (x,))
        return made | {"full": (SoftmaxAttention(384, 6).eval(), (x,))}

    return make


CONTESTS = {
    "bra-core-56": Contest(bra_core, "time ≤ 0.5 and memory ≤ 0.25 of the gather form", rounds=30),
    "bra-56": Contest(
        bra(56, 56, 7, 4, "gather", "full"), "time ≤ 0.5 and memory ≤ 0.25 of the gather form", rounds=30
    ),
    "bra-160": Contest(bra(160, 160, 8, 16, "gather"), "memory ≤ 0.5 of the gather form (S = 8, k = 16)", rounds=3),
    "bra-224": Contest(bra(224, 224, 7, 4, "gather"), "time ≤ 0.5 and memory ≤ 0.25 of the gather form", rounds=3),
    "bra-280": Contest(bra(280, 280, 7, 4, "gather"), "the largest that fits beside others", backward=False, rounds=2),
    "bra-600x500": Contest(
        bra(600, 500, 7, 4),
        "memory ≤ 4 GiB; the gather form needs 60 GB for its scores, as much for their softmax",
        backward=False,
        rounds=1,
    ),
    "vmoba-selection": Contest(vmoba_selection, "time ≤ 0.25 of the full sort", backward=False, rounds=5),
    "vmoba-2880": Contest(video((6, 20, 24), 4, "full", "dense"), rounds=5),
    "vmoba-32760": Contest(video((21, 30, 52), 12, "full"), "faster than full attention", backward=False, rounds=2),
    "vmoba-32760-2-heads": Contest(video((21, 30, 52), 2, "full"), "faster than full attention", rounds=2),
    "moba-16384": Contest(causal, rounds=3),
    "sparsifiner-197": Contest(sparsifiner(197, 0.25)),
    "sparsifiner-1025": Contest(sparsifiner(1025, 0.25), rounds=5),
    "sparsifiner-4097-few": Contest(sparsifiner(4097, 0.01), rounds=3),
}


def _bra(tokens: int):
    side = round(tokens**0.5)
    torch.manual_seed(0)
    regions = max(2, round(tokens ** (1 / 6)))  # the paper's S² ∝ (HW)^⅓
    layer = BiLevelRoutingAttention(64, num_heads=2, n_win=regions, topk=4, side_dwconv=5).eval()
    return layer, (torch.randn(1, side, side, 64),)


def _qkv(tokens: int) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(1, 2, tokens, 64) for _ in range(3))


def _vmoba(tokens: int):
    side = round(tokens**0.5 / 4)
    layer = MixtureOfBlocks([1])  # a frame is a block
    return (lambda q, k, v: layer(q, k, v, grid=(16, side, side))), _qkv(16 * side * side)


GROWTH = {
    "bi-level routing": Growth(_bra),
    "mixture of blocks, 16 blocks": Growth(_vmoba),
    "MoBA, blocks of 512, k = 3": Growth(
        lambda n: (lambda q, k, v: moba_attention(q, k, v, block=512, topk=3), _qkv(n))
    ),
    "Sparsifiner, k = 64, gather": Growth(
        lambda n: (
            SparsifinerAttention(64, num_heads=2, num_tokens=n, rank=32, attn_keep_rate=64 / n, path="gather").eval(),
            (torch.randn(1, n, 64),),
        ),
        most=16384,
    ),
    "full attention (torch)": Growth(lambda n: (F.scaled_dot_product_attention, _qkv(n))),
}
