"""Prefill and decode time, state and memory of a model by length: figures of one machine, to be read against one another."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch

from language_models.model.causal import SuiteForCausalLM
from language_models.tasks.measures import longest


@torch.inference_mode()
def measure_speed(model: SuiteForCausalLM, lengths: Sequence[int], steps: int, device: str = "cpu") -> dict[str, Any]:
    """For each length, ascending: milliseconds per token of reading the prompt and of decoding after it, bytes of the state, peak memory.

    On the CPU the peak is that of the process, so of all lengths so far; on CUDA it is that of the length.
    """
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    rows: dict[int, dict[str, Any]] = {}
    for length in sorted(lengths):
        if length + steps > longest(model):
            rows[length] = {"why": f"the fixed stream ends at {longest(model)} tokens"}
            continue
        ids = torch.randint(0, 97, (1, length + steps), generator=generator).to(device)
        cache = model.new_cache()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        prefill = _seconds(model, ids[:, :length], cache, device)
        state = cache.state_bytes()
        times = []
        for step in range(length, length + steps):
            times.append(_seconds(model, ids[:, step : step + 1], cache, device))
        rows[length] = {
            "prefill_ms_per_token": 1000 * prefill / length,
            "decode_ms_per_token": 1000 * sorted(times)[len(times) // 2],
            "state_bytes": state,
            "peak_bytes": _peak(device),
        }
    return {"speed": rows}


def _seconds(model: SuiteForCausalLM, ids: torch.Tensor, cache: Any, device: str) -> float:
    """Of reading the next tokens."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    model(ids, cache=cache, logits_to_keep=1)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
