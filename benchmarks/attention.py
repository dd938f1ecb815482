"""`core_attention.attention` against its definition and against torch's SDPA with a written-out mask, in one run.

Times leave the writing of SDPA's mask out (a user may keep it); its memory counts, because it must exist. A definition or a mask of
more than --most GiB is not run.

    uv run python benchmarks/attention.py               # times and peak memory of every mask, forward and forward + backward
    uv run python benchmarks/attention.py --small       # what a small call costs beside torch's bare function
    uv run python benchmarks/attention.py --decoding    # a decoded token of four layers beside a plain layer with a cache
    uv run python benchmarks/attention.py --growth      # how time and memory grow from 1k to 64k tokens
    uv run python benchmarks/attention.py --device cuda --dtype bfloat16
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import paired, parser, peak_memory, ratio, show, size
from torch import Tensor, nn

from core_attention.attention import attention, explain
from core_attention.masks import Additive, Blocks, Causal, Factorised, KeyLengths, Mask, Part, Segments, Size, Window
from core_attention.mechanisms.dma.layer import DynamicMaskAttention
from core_attention.mechanisms.landmark.layer import LandmarkAttention
from core_attention.mechanisms.titans.layers import titans_layer
from core_attention.parts.rotary import rotary_angles, rotate

HEADS, WIDTH = 4, 64
CASES = (
    "no mask",
    "no mask, 1 key head",
    "no mask, values of width 32",
    "causal",
    "causal, half of it cached",
    "window of 256",
    "packed sequences",
    "packed sequences, causal",
    "lengths 100 % and 25 %",
    "blocks, a quarter of them",
    "additive",
    "factorised",
)
GROWING = ("causal", "window of 256", "packed sequences, causal")
Given = tuple[Mask | None, Tensor, Tensor, Tensor]


def given(case: str, tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Given:
    """The mask, queries, keys and values of a case."""
    torch.manual_seed(0)
    batch = 2 if case.startswith("lengths") else 1
    queries = tokens // 2 if "cached" in case else tokens
    kv_heads = 1 if "1 key head" in case else HEADS
    value_width = 32 if "width 32" in case else WIDTH
    shapes = ((HEADS, queries, WIDTH), (kv_heads, tokens, WIDTH), (kv_heads, tokens, value_width))
    q, k, v = (torch.randn(batch, *shape, device=device, dtype=dtype).requires_grad_() for shape in shapes)
    kind = case.split(",")[0].split()[0]
    if kind == "no":
        return None, q, k, v
    mask: Mask
    if kind == "causal":
        mask = Causal(tokens - queries)
    elif kind == "window":
        mask = Window(128, 128)
    elif kind == "packed":  # sequences of 1/16 … 6/16 of the tokens
        mask = Segments(
            torch.repeat_interleave(torch.arange(5), torch.tensor([1, 4, 2, 6, 3]) * tokens // 16)[None].to(device)
        )
        mask = Causal() & mask if case.endswith("causal") else mask
    elif kind == "lengths":
        mask = KeyLengths(torch.tensor([tokens, tokens // 4], device=device))
    elif kind == "blocks":
        mask = Blocks(torch.rand(1, 1, tokens // 128, tokens // 128, device=device) < 0.25, 128)
    elif kind == "additive":
        mask = Additive(torch.randn(1, HEADS, tokens, tokens, device=device, dtype=dtype))
    else:
        rows = 2 ** (int(math.log2(tokens)) // 2)
        mask = Factorised(
            *(torch.randn(1, HEADS, tokens, n, device=device, dtype=dtype) for n in (rows, tokens // rows))
        )
    return mask, q, k, v


def written(mask: Mask | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The mask as a user writes it out for torch's SDPA."""
    if mask is None or (isinstance(mask, Causal) and mask.offset == 0):
        return None
    extent = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    bias = mask.bias(extent, Part(), q.device)
    return mask.allowed(extent, Part(), q.device) if bias is None else bias


def run(contestant: str, given: Given, dense: Tensor | None = None) -> Tensor:
    """One call of one contestant; SDPA writes its mask out unless `dense` is it."""
    mask, q, k, v = given
    if contestant != "SDPA":
        backend = {"ours": "auto", "definition": "reference"}.get(contestant, contestant)
        return attention(q, k, v, mask=mask, backend=backend)
    dense = written(mask, q, k) if dense is None else dense
    plain = isinstance(mask, Causal) and mask.offset == 0
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=dense, is_causal=plain, enable_gqa=q.shape[1] != k.shape[1]
    )


def forward(call: Callable[[], Tensor]) -> None:
    with torch.no_grad():
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def both(call: Callable[[], Tensor]) -> None:
    """Forward and backward."""
    call().sum().backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(case: str, contestant: str, way: str, tokens: int, options: Any) -> int:
    """Bytes of one call beyond its inputs: of a fresh process on the CPU, of the allocator on CUDA."""
    if options.device == "cuda":
        inputs = given(case, tokens, "cuda", getattr(torch, options.dtype))
        globals()[way](lambda: run(contestant, inputs))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        globals()[way](lambda: run(contestant, inputs))
        return torch.cuda.max_memory_allocated() - before
    setup = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport attention as bench\nkind = torch.{options.dtype}\n"
        f"small = bench.given({case!r}, 256, 'cpu', kind); bench.{way}(lambda: bench.run({contestant!r}, small))\n"
        f"inputs = bench.given({case!r}, {tokens}, 'cpu', kind)"
    )
    return peak_memory(setup, f"bench.{way}(lambda: bench.run({contestant!r}, inputs))", threads=options.threads)


def compare(case: str, options: Any) -> list[dict[str, str]]:
    """One case, forward and forward + backward."""
    dtype = getattr(torch, options.dtype)
    inputs = given(case, options.tokens, options.device, dtype)
    mask, q, k, v = inputs
    told = explain(q, k, v, mask=mask)
    scores = q.shape[0] * HEADS * q.shape[2] * k.shape[2] * 4
    able = [
        name for name, why in told.others.items() if name in ("triton", "flex", "sdpa") and why.startswith("it could")
    ]
    names = ["ours", *(["definition", "SDPA"] if 4 * scores < options.most * 2**30 else []), *able]
    dense = written(mask, q, k) if "SDPA" in names else None
    rows = []
    for way, title in ((forward, "forward"), (both, "forward + backward")):
        calls = {name: lambda name=name, way=way: way(lambda: run(name, inputs, dense)) for name in names}
        times = paired(calls, rounds=options.rounds)
        row = {"case": case, "": title, "taken": told.backend, "ours": f"{times['ours'].median * 1e3:.1f} ms"}
        row |= {f"ours ÷ {name}": ratio(times["ours"], times[name]) for name in names[1:]}
        row |= {
            f"memory of {name}": size(peak(case, name, way.__name__, options.tokens, options)) for name in names[:3]
        }
        rows.append(row)
    return rows


SMALL = {
    "(1, 8, 1, 64)": (1, 1, 64, None),
    "(1, 8, 64, 32)": (64, 64, 32, None),
    "(1, 8, 64, 64)": (64, 64, 64, None),
    "(1, 8, 512, 64)": (512, 512, 64, None),
    "(1, 8, 512, 64), causal": (512, 512, 64, Causal()),
    "decoding: 1 query, 128 keys": (1, 128, 64, None),
    "decoding, causal at the end": (1, 128, 64, Causal(align="end")),
    "(1, 8, 2048, 64), window 64": (2048, 2048, 64, Window(64, 0)),
}


def small(options: Any) -> list[dict[str, str]]:
    """Calls of 8 heads, forward, in processor time, alternating with torch's bare function; a window's is given the written-out mask."""
    rows = []
    for name, (queries, keys, width, mask) in SMALL.items():
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 8, n, width) for n in (queries, keys, keys))
        triangle = mask == Causal()
        dense = written(mask, q, k) if isinstance(mask, Window) else None
        repeats = max(1, 400 // max(1, queries * keys // 64))

        def bare(
            q: Tensor = q, k: Tensor = k, v: Tensor = v, triangle: bool = triangle, dense: Tensor | None = dense
        ) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=dense, is_causal=triangle)

        def ours(q: Tensor = q, k: Tensor = k, v: Tensor = v, mask: Mask | None = mask) -> Tensor:
            return attention(q, k, v, mask=mask)

        def repeated(call: Callable[[], Tensor], repeats: int = repeats) -> None:
            with torch.no_grad():
                for _ in range(repeats):
                    call()

        calls = {"ours": lambda: repeated(ours), "SDPA": lambda: repeated(bare)}
        times = paired(calls, rounds=4 * options.rounds, clock=time.process_time)
        took = {who: f"{times[who].median / repeats * 1e6:.1f} µs" for who in calls}
        rows.append({"call": name, **took, "ours ÷ SDPA": ratio(times["ours"], times["SDPA"])})
    return rows


class PlainLayer(nn.Module):
    """Causal attention with rotary positions, whose cache is joined to every token, as transformers' dynamic cache is."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def new_cache(self) -> list[Tensor]:
        return []

    def forward(self, x: Tensor, *, cache: list[Tensor]) -> Tensor:
        start = cache[0].shape[2] if cache else 0
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projections)
        angles = rotary_angles(torch.arange(start, start + x.shape[1]), q.shape[-1])
        q, k = rotate(q, angles), rotate(k, angles)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        cache[:] = k, v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        return self.o_proj(y.transpose(1, 2).flatten(2))


LAYERS, TOKEN_WIDTH = 4, 256


def decoder(kind: str) -> Callable[[Tensor], Tensor]:
    """Four layers and their caches: a function of the next tokens."""
    torch.manual_seed(0)
    layers, caches = [], []
    for _ in range(LAYERS):
        if kind == "dma":
            layer = DynamicMaskAttention(TOKEN_WIDTH, 4, window=256)
            nn.init.normal_(layer.A)  # 0 would tie all keys
        elif kind == "landmark":
            layer = LandmarkAttention(TOKEN_WIDTH, 4, block=51)
        elif kind == "titans-mag":
            layer = titans_layer("mag", TOKEN_WIDTH, window=64, num_heads=4)
        else:
            layer = PlainLayer(TOKEN_WIDTH, 4)
        layers.append(layer.eval())
        options = {"top_k": 4} if kind == "landmark" else {}
        caches.append(layer.new_cache(**options))

    @torch.no_grad()
    def step(x: Tensor) -> Tensor:
        for layer, cache in zip(layers, caches, strict=True):
            x = layer(x, cache=cache)
        return x

    return step


def decoding(options: Any) -> list[dict[str, str]]:
    """What a token costs after contexts of several lengths, in processor time, which other work on the machine disturbs less."""
    rows, first = [], {}
    for context in options.contexts:
        names = (
            ("plain", "dma", "landmark", "titans-mag")
            if context == options.contexts[0]
            else ("dma", "landmark", "titans-mag")
        )
        steps = {name: decoder(name) for name in names}
        torch.manual_seed(1)
        for part in torch.randn(1, context, TOKEN_WIDTH).split(1024, 1):
            for step in steps.values():
                step(part)
        token = torch.randn(1, 1, TOKEN_WIDTH)

        def run(step: Callable[[Tensor], Tensor], token: Tensor = token) -> None:
            for _ in range(16):
                step(token)

        calls = {name: lambda step=step: run(step) for name, step in steps.items()}
        times = paired(calls, rounds=4 * options.rounds, warm=5, clock=time.process_time)
        for name in names:
            row = {"layer": name, "context": str(context), "a token": f"{times[name].median / 16 * 1e3:.2f} ms"}
            if context == options.contexts[0]:
                first = times
                row["against plain"] = ratio(times[name], times["plain"])
            else:
                row["against the first"] = ratio(times[name], first[name])
            rows.append(
                {key: row.get(key, "") for key in ("layer", "context", "a token", "against plain", "against the first")}
            )
    return rows


def growth(case: str, options: Any) -> list[dict[str, str]]:
    """Time and memory of one case over its length, with the fitted exponents of the last doublings."""
    rows, seconds, peaks, lengths = [], [], [], [1024, 4096, 16384, 65536]
    for tokens in lengths:
        inputs = given(case, tokens, options.device, getattr(torch, options.dtype))
        took = paired(
            {"ours": lambda inputs=inputs: both(lambda: run("ours", inputs))}, rounds=1 if tokens > 16384 else 3
        )["ours"].median
        seconds.append(took)
        peaks.append(max(1, peak(case, "ours", "both", tokens, options)))
        rows.append(
            {
                "case": case,
                "tokens": str(tokens),
                "forward + backward": f"{took * 1e3:.1f} ms",
                "memory": size(peaks[-1]),
            }
        )
    steps = math.log(lengths[-1] / lengths[1])
    fitted = [f"∝ tokens^{math.log(found[-1] / found[1]) / steps:.2f}" for found in (seconds, peaks)]
    return [*rows, {"case": case, "tokens": "4k–64k", "forward + backward": fitted[0], "memory": fitted[1]}]


if __name__ == "__main__":
    arguments = parser(__doc__ or "")
    arguments.add_argument("--tokens", type=int, default=4096, help="queries and keys (default 4096; a power of 2)")
    arguments.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    arguments.add_argument("--small", action="store_true", help="what a small call costs beside torch's bare function")
    arguments.add_argument(
        "--decoding", action="store_true", help="what a decoded token costs, of mechanisms with a cache"
    )
    arguments.add_argument(
        "--contexts", type=int, nargs="+", default=[1024, 65536], help="tokens read before those of --decoding"
    )
    arguments.add_argument("--growth", action="store_true", help="time and memory from 1k to 64k tokens")
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    arguments.add_argument("--most", type=float, default=4, help="GiB that the definition may take (default 4)")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    what = f"torch {torch.__version__}, {chosen.dtype} on {chosen.device}, {chosen.threads} thread(s), {HEADS} heads of width {WIDTH}"
    if chosen.small:
        show(
            f"Small calls: {what.rsplit(',', 1)[0]}; ratios are medians of pairs (least–greatest)",
            small(chosen),
            chosen.json,
        )
        raise SystemExit
    if chosen.decoding:
        title = f"Decoding: {LAYERS} layers, {TOKEN_WIDTH} wide, torch {torch.__version__}, {chosen.threads} thread(s)"
        show(f"{title}; ratios are medians of pairs (least–greatest)", decoding(chosen), chosen.json)
        raise SystemExit
    for name in chosen.case or (GROWING if chosen.growth else CASES):
        if chosen.growth:
            show(f"Growth of {name}: {what}", growth(name, chosen), chosen.json)
        else:
            show(
                f"{name}, {chosen.tokens} tokens: {what}; ratios are medians of pairs (least–greatest)",
                compare(name, chosen),
                chosen.json,
            )
