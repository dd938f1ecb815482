"""Contests of multi-variate parallel attention and of Titans' memory."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from core_routed import Contest, Growth
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.factorised.attention import factorised_reference, relative_bias
from core_attention.mechanisms.mvpformer.mvpa import MVPFormerGQAAttention, mvpa, mvpa_reach, relative_tables
from core_attention.mechanisms.titans.memory import NeuralMemory
from core_attention.published.titans.memory import PublicMemoryCache, PublicNeuralMemory
from core_attention.systems import system


class Definition(nn.Module):
    """MVPA with all weights in memory, one product for each term."""

    def __init__(self, ours: MVPFormerGQAAttention):
        super().__init__()
        self.ours = ours

    def attend(self, q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor) -> Tensor:
        tables = relative_tables(r, s, self.ours._bias)
        return factorised_reference(q, k, v, tables, mvpa_reach(), scale=self.ours.scale)

    def forward(self, x: Tensor, positions: Tensor, channels: Tensor) -> Tensor:
        y = self.attend(*self.ours._projected(x, positions, channels, None))
        return self.ours.c_proj(y.permute(0, 2, 3, 1, 4).flatten(3))


class DenseSDPA(Definition):
    """torch's fused attention with the bias written out. It cannot leave the content term out of some pairs, so that this is MVPA
    only where the window holds everything; it costs what it costs."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor) -> Tensor:
        tables = relative_tables(r, s, self.ours._bias)
        time, channels = q.shape[2:4]
        f, g = relative_bias(q, tables, key_rows=time, kv_heads=k.shape[1])
        segment = torch.arange(time)
        f = f.masked_fill(segment[:, None, None] < segment, -torch.inf)
        bias = ((f[..., None] + g[..., None, :]) * self.ours.scale).flatten(4).flatten(2, 3)
        content = (q.unflatten(1, (k.shape[1], -1)) + self.ours._bias[0][:, None, None, None]).flatten(1, 2)
        content, k, v = (t.flatten(2, 3) for t in (content, k, v))
        y = F.scaled_dot_product_attention(content, k, v, attn_mask=bias, scale=self.ours.scale, enable_gqa=True)
        return y.unflatten(2, (time, channels))


def braindecode_layer(ours: MVPFormerGQAAttention) -> nn.Module | None:
    """braindecode's layer with the same weights, checked to give the same; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from braindecode.models.mvpformer import _MVPAttention  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("braindecode is not installed (uv sync --group bench)")
        return None
    theirs = _MVPAttention(ours.dim, ours.num_heads, ours.num_kv_heads)
    theirs.load_state_dict(ours.state_dict())
    given = torch.randn(1, 13, 3, ours.dim), torch.randn(1, 13, ours.dim), torch.randn(1, 3, ours.dim)
    with torch.no_grad():
        torch.testing.assert_close(ours(*given), theirs(*given), rtol=1e-4, atol=1e-5)
    return theirs


def grid(time: int, channels: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, time, channels, 768), torch.randn(1, time, 768), torch.randn(1, channels, 768)


def mvpa_layer(time: int, channels: int, batch: int, peers: tuple[str, ...], small: bool):
    """MVPFormer-S's layer (E = 768, 12 heads, 4 of keys) on a grid."""
    torch.manual_seed(0)
    layer = MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4)
    given = grid(2, 4) if small else grid(time, channels, batch)
    every = {"ours": layer, "definition": Definition(layer), "sdpa": DenseSDPA(layer)}
    if "braindecode" in peers and (theirs := braindecode_layer(layer)) is not None:
        every["braindecode"] = theirs
    return {name: (every[name], given) for name in ("ours", *peers) if name in every}


def mvpa_alone(time: int, channels: int, batch: int, small: bool):
    """The same without the linear maps, which every form shares."""
    torch.manual_seed(0)
    layer = MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4)
    given = grid(2, 4) if small else grid(time, channels, batch)
    with torch.no_grad():
        q, k, v, r, s = (t.contiguous() for t in layer._projected(*given, None))
    bias = layer._bias.detach()
    return {
        "ours": (partial(mvpa, bias=bias), (q, k, v, r, s)),
        "definition": (Definition(layer).attend, (q, k, v, r, s)),
        "sdpa": (DenseSDPA(layer).attend, (q, k, v, r, s)),
    }


class LeavingState(nn.Module):
    """Our public memory, made to leave the state that the package always computes."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        return self.ours(x, cache=PublicMemoryCache())


class OutputAlone(nn.Module):
    """What a module returns first."""

    def __init__(self, theirs: nn.Module):
        super().__init__()
        self.theirs = theirs

    def forward(self, x: Tensor) -> Tensor:
        return self.theirs(x)[0]


def memory(small: bool):
    """Titans' memory, batch 2, 1024 × 384, chunk 64: the public form with the package's weights, and the paper's."""
    torch.manual_seed(0)
    x = torch.randn(1, 8, 384) if small else torch.randn(2, 1024, 384)
    chunk = 4 if small else 64
    theirs = None
    try:
        from titans_pytorch import NeuralMemory as Package  # pyright: ignore[reportMissingImports]

        theirs = Package(dim=384, chunk_size=chunk)
        ours = system("titans").components["NeuralMemory"].load({"dim": 384, "chunk_size": chunk}, theirs.state_dict())
        probe = torch.randn(1, 130, 384)
        with torch.no_grad():
            torch.testing.assert_close(ours(probe), theirs(probe)[0], rtol=1e-3, atol=1e-4)
    except ImportError:
        print("titans-pytorch is not installed (uv sync --group bench)")
        ours = PublicNeuralMemory(384, chunk_size=chunk)
    made = {"ours": LeavingState(ours), "ours, no state": ours, "the paper's": NeuralMemory(384, chunk_size=chunk)}
    if theirs is not None:
        made["titans-pytorch"] = OutputAlone(theirs)
    return {name: (module, (x,)) for name, module in made.items()}


EVERY = ("definition", "sdpa", "braindecode")
CONTESTS = {
    "mvpa-25x32": Contest(partial(mvpa_layer, 25, 32, 1, EVERY), "≥ 3× faster than braindecode"),
    "mvpa-25x32-batch4": Contest(
        partial(mvpa_layer, 25, 32, 4, ("braindecode",)), "≥ 3× faster than braindecode", rounds=3
    ),
    "mvpa-alone-25x32": Contest(partial(mvpa_alone, 25, 32, 1)),
    # the dense forms are not run: one tensor of all scores is 12 · 14080² · 4 B = 8.9 GiB, and they hold several
    "mvpa-110x128": Contest(partial(mvpa_layer, 110, 128, 1, ()), "≤ 1 GiB, forward and backward", rounds=1),
    "memory-1024": Contest(memory, "≥ 5× faster than titans-pytorch, both passes, at ≤ ¼ of its memory", rounds=5),
}


def mvpa_segments(tokens: int):
    return MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4), grid(max(1, tokens // 16), 16)


def mvpa_channels(tokens: int):
    return MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4), grid(16, max(1, tokens // 16))


def memory_tokens(tokens: int):
    return NeuralMemory(128, chunk_size=64), (torch.randn(1, tokens, 128),)


def memory_chunk(chunk: int):
    return NeuralMemory(128, chunk_size=chunk), (torch.randn(1, 1024, 128),)


GROWTH = {
    "mvpa, tokens (16 channels)": Growth(mvpa_segments, lengths=(256, 512, 1024, 2048)),
    "mvpa, tokens (16 segments)": Growth(mvpa_channels, lengths=(256, 512, 1024, 2048)),
    "memory, tokens (chunk 64)": Growth(memory_tokens, lengths=(512, 1024, 2048, 4096)),
    "memory, chunk (1024 tokens)": Growth(memory_chunk, lengths=(8, 16, 32, 64, 128)),
}
