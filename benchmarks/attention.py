"""`core_attention.attention` against its definition and against torch's SDPA with a written-out mask, in one run.

Times leave the writing of SDPA's mask out (a person may keep it); its memory counts, because it must exist. A definition or a mask of
more than --most GiB is not run.

    uv run python benchmarks/attention.py               # times and peak memory of every mask, forward and forward + backward
    uv run python benchmarks/attention.py --small       # what a small call costs beside torch's bare function
    uv run python benchmarks/attention.py --growth      # how time and memory grow from 1k to 64k tokens
    uv run python benchmarks/attention.py --device cuda --dtype bfloat16
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import paired, parser, peak_memory, ratio, show, size
from torch import Tensor

from core_attention.attention import attention, explain
from core_attention.masks import Additive, Blocks, Causal, Factorised, KeyLengths, Mask, Part, Segments, Size, Window

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
    """The mask as a person writes it out for torch's SDPA."""
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
    """Calls of 8 heads, forward, alternating with torch's bare function; a window's is given the written-out mask."""
    rows = []
    for name, (queries, keys, width, mask) in SMALL.items():
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 8, n, width) for n in (queries, keys, keys))
        triangle = mask == Causal()
        dense = written(mask, q, k) if isinstance(mask, Window) else None
        repeats = max(3, 400 // max(1, queries * keys // 64))

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
        times = paired(calls, rounds=options.rounds)
        took = {who: f"{times[who].median / repeats * 1e6:.1f} µs" for who in calls}
        rows.append({"call": name, **took, "ours ÷ SDPA": ratio(times["ours"], times["SDPA"])})
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
    for name in chosen.case or (GROWING if chosen.growth else CASES):
        if chosen.growth:
            show(f"Growth of {name}: {what}", growth(name, chosen), chosen.json)
        else:
            show(
                f"{name}, {chosen.tokens} tokens: {what}; ratios are medians of pairs (least–greatest)",
                compare(name, chosen),
                chosen.json,
            )
