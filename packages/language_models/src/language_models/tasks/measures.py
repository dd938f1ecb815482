"""What a model is measured by: bits per byte by context, needles by length and depth, recall by pairs, and how its attention looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from language_models.model.causal import SuiteForCausalLM, next_token_loss
from language_models.model.deconstructed import DeconstructedForCausalLM
from language_models.tasks.needles import Prompt, is_right, plant
from language_models.tasks.recall import recall_accuracy, recall_batch
from language_models.texts.tokens import Tokenizer
from language_models.texts.windows import Windows

PIECE = 256  # logits of a long text that exist at once, in tokens


def longest(model: SuiteForCausalLM) -> int:
    """The longest text a model can read; only fixed streams end."""
    if isinstance(model, DeconstructedForCausalLM) and {"rnd", "fixedseq"} & set(model.config.kinds or ()):
        return model.config.fixed_length
    return 1 << 40


@torch.inference_mode()
def window_loss(model: SuiteForCausalLM, ids: Tensor, documents: Tensor | None = None) -> float:
    """Mean next-token cross-entropy of one window, in nats. Windows beyond the training length are read through the cache, as in generation."""
    device = next(model.parameters()).device
    ids = ids.to(device)
    several = documents is not None and bool((documents != documents[:, :1]).any())
    if several or ids.shape[1] <= model.config.max_position_embeddings:
        documents = documents.to(device) if several and documents is not None else None
        return float(next_token_loss(model(ids, document_ids=documents).logits, ids, None, documents))
    cache = model.new_cache()
    total = 0.0
    for start in range(0, ids.shape[1] - 1, PIECE):
        part = ids[:, start : min(start + PIECE, ids.shape[1] - 1)]
        logits = model(part, cache=cache).logits
        targets = ids[:, start + 1 : start + 1 + part.shape[1]]
        total += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        )
    return total / (ids.shape[1] - 1)


def bits_per_byte(
    model: SuiteForCausalLM, windows: Windows, lengths: Sequence[int], most: int = 16
) -> dict[int, list[float]]:
    """Bits per byte of held-out windows of each length, one value a window; lengths that the text or the model cannot give are left out."""
    by_context: dict[int, list[float]] = {}
    tokenizer = windows.corpus.tokenizer
    for length in lengths:
        if length > min(windows.held_out, longest(model)):
            continue
        values = []
        for ids, documents in windows.held_out_windows(length, most):
            tokens_per_byte = length / max(1, tokenizer.byte_count(ids[0].numpy()))
            values.append(window_loss(model, ids, documents) / math.log(2) * tokens_per_byte)
        by_context[length] = values
    return by_context


@torch.inference_mode()
def marked_needles(
    model: SuiteForCausalLM, windows: Windows, lengths: Sequence[int], depths: Sequence[float], each: int, seed: int
) -> dict[int, dict[float, float]]:
    """Accuracy of marked needles by length and depth; lengths that cannot be made are left out."""
    tokenizer, device = windows.corpus.tokenizer, next(model.parameters()).device
    by_length: dict[int, dict[float, float]] = {}
    for length in lengths:
        if length > min(len(windows.corpus.ids), longest(model)):
            continue
        row: dict[float, float] = {}
        for depth in depths:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + length * 101 + round(depth * 100))
            starts = torch.randint(len(windows.corpus.ids) - length + 1, (each,), generator=generator)
            ids = torch.stack([torch.from_numpy(windows.corpus.window(int(s), length)[0]) for s in starts])
            ids, answers = plant(ids, tokenizer, generator, depth)
            right = 0
            for group in range(0, each, max(1, 8192 // length)):
                part = slice(group, group + max(1, 8192 // length))
                logits = model(ids[part, :-1].to(device), cache=model.new_cache(), logits_to_keep=1).logits[:, -1]
                right += int((logits.argmax(-1).cpu() == answers[part]).sum())
            row[depth] = right / each
        by_length[length] = row
    return by_length


@torch.inference_mode()
def recall(model: SuiteForCausalLM, pairs: Sequence[int], each: int, seed: int) -> dict[int, float]:
    """Accuracy of associative recall by the number of pairs; those that the model cannot read are left out."""
    device = next(model.parameters()).device
    by_pairs: dict[int, float] = {}
    for number in pairs:
        if 4 * number > longest(model):
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        ids, labels = recall_batch(each, number, generator)
        right, asked = recall_accuracy(model(ids.to(device)).logits.cpu(), labels)
        by_pairs[number] = right / asked
    return by_pairs


@torch.inference_mode()
def worded_needles(
    model: SuiteForCausalLM, tokenizer: Tokenizer, prompts: Sequence[Prompt], new_tokens: int = 24
) -> list[dict[str, Any]]:
    """Greedy answers to worded needles, one row a prompt."""
    rows = []
    device = next(model.parameters()).device
    for prompt in prompts:
        ids = torch.from_numpy(tokenizer.encode(prompt.text).astype("int64"))[None].to(device)
        row: dict[str, Any] = {
            "length": prompt.length,
            "depth": prompt.depth,
            "tokens": ids.shape[1],
            "answer": prompt.answer,
        }
        if ids.shape[1] + new_tokens > longest(model):
            row |= {"generated": None, "right": None, "why": f"the fixed stream ends at {longest(model)} tokens"}
        else:
            out = model.generate(ids, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.end)
            text = tokenizer.decode(out[0, ids.shape[1] :].tolist())
            row |= {"generated": text, "right": is_right(prompt, text)}
        rows.append(row)
    return rows


@torch.inference_mode()
def attention_table(model: SuiteForCausalLM, ids: Tensor) -> list[dict[str, Any]]:
    """The paper's attention indicators of every layer on one window (Xue et al. 2025): entropy, concentration, sink, local focus, head diversity.

    Models of the study write their maps out; of others the maps are captured where the mechanism records them.
    """
    from core_attention.mechanisms.deconstructing.attention import attention_indicators

    maps = attention_maps(model, ids)
    rows: list[dict[str, Any]] = []
    for layer, weights in maps.items():
        values = attention_indicators(weights[0].double())
        rows.append(
            {
                "layer": layer,
                "entropy": float(values["entropy"].mean()),
                "concentration": float(values["concentration"].mean()),
                "sink": float(values["sink"].mean()),
                **{f"local_focus_{n}": float(x) for n, x in enumerate(values["local_focus"].mean(1))},
                "head_diversity": float(values["head_diversity"]),
            }
        )
    return rows


def attention_maps(model: SuiteForCausalLM, ids: Tensor) -> Mapping[str, Tensor]:
    """Attention maps by layer, (batch, heads, time, time); empty where a mechanism has none (a neural memory alone)."""
    if isinstance(model, DeconstructedForCausalLM):
        return {f"layer {i + 1}": x for i, x in model.attention_maps(ids).items()}
    from core_attention import capture

    with capture(model) as captured:
        model(ids)
    by_layer: dict[str, Tensor] = {}
    for name in captured:
        x = captured[name]
        if x.ndim == 4 and x.shape[-1] == x.shape[-2]:
            by_layer[name] = x
    return by_layer
