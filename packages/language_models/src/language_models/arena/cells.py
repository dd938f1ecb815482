"""The cells of an arena: one kind and one seed, trained and measured; each leaves one JSON file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from core_runtime.bulk import Item
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from language_models.arena.speed import measure_speed
from language_models.model.causal import SuiteForCausalLM
from language_models.model.folder import parameters
from language_models.model.kinds import Sizes, count_parameters, find_kind, fitted, new_model, sizes_for
from language_models.tasks import measures
from language_models.tasks.needles import plant
from language_models.tasks.recall import recall_batch
from language_models.texts.reading import read_corpus
from language_models.texts.tokens import read_tokenizer
from language_models.texts.windows import Windows, windows_of
from language_models.training.data import Batch, Steps
from language_models.training.module import Cosine, first_not_finite

NEEDLES = 1.0  # share of the training windows that hold a marked needle
QUESTIONS = 4  # how often it is asked for in training; once when it is measured


@dataclass(frozen=True)
class Budget:
    """What every cell of an arena shares.

    Attributes:
        params, tokens, context, batch, lr: of the training on text; `tokens` counts tokens.
        recall_steps, recall_lr: of the training on associative recall (32 sequences a step), by a fresh model of the same sizes.
        pairs: greatest number of pairs in it.
        needle_lengths, needles: lengths of needles, and how many for each length and depth.
        text_windows: held-out windows for each context.
        speed_lengths: lengths at which speed and state are measured.
        steps: tokens decoded for each figure.
    """

    params: int
    tokens: int
    context: int
    batch: int
    lr: float
    recall_steps: int
    recall_lr: float
    pairs: int
    needle_lengths: tuple[int, ...]
    needles: int
    text_windows: int
    speed_lengths: tuple[int, ...]
    steps: int = 16


DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@lru_cache(2)
def read_windows(text: str, context: int, tokenizer: str | None) -> Windows:
    """The text of the arena, once in each process."""
    return windows_of(read_corpus(text, read_tokenizer(tokenizer)), context)


def sizes_of(budget: Budget, windows: Windows) -> Sizes:
    """The sizes that all kinds share."""
    tokenizer = windows.corpus.tokenizer
    # what is trained and judged fits a fixed stream; beyond it, speed says that the stream ends
    longest = max(*budget.needle_lengths, 4 * budget.pairs, 4 * budget.context) + budget.steps + 2
    return sizes_for(
        budget.params,
        vocab_size=max(tokenizer.size, 64),
        context=budget.context,
        landmark=tokenizer.landmark,
        longest=longest,
    )


def model_of(kind: str, budget: Budget, windows: Windows, seed: int) -> SuiteForCausalLM:
    """A fresh model of a kind within the budget."""
    sizes = sizes_of(budget, windows)
    target = count_parameters(find_kind("standard")(sizes))
    return new_model(fitted(find_kind(kind), sizes, target), seed)


def run_cell(item: Item) -> dict[str, Any]:
    """Trains and measures one cell, and writes its file."""
    part, kind, seed, budget, text, tokenizer, device, precision = item.source
    windows = read_windows(text, budget.context, tokenizer)
    started = time.perf_counter()
    if part == "speed":
        row = measure_speed(model_of(kind, budget, windows, seed), budget.speed_lengths, budget.steps, device)
    else:
        work = text_cell if part == "text" else recall_cell
        row = work(kind, seed, budget, windows, device, precision)
    row |= {"part": part, "kind": kind, "seed": seed, "seconds": time.perf_counter() - started}
    write_text(item.output, json.dumps(row) + "\n")
    return {"seconds": row["seconds"]}


def text_cell(kind: str, seed: int, budget: Budget, windows: Windows, device: str, precision: str) -> dict[str, Any]:
    """Trains on text with needles planted, and measures bits per byte by context and needles by length."""
    model = model_of(kind, budget, windows, seed).to(device)
    steps = max(1, budget.tokens // (budget.batch * budget.context))

    def with_needles(batch: Batch, generator: torch.Generator) -> Batch:
        ids, _, documents = batch
        planted = plant(ids, windows.corpus.tokenizer, generator, questions=QUESTIONS)[0]
        with_needle = torch.rand(len(ids), generator=generator) < NEEDLES
        ids = torch.where(with_needle[:, None], planted, ids)
        return ids, ids, documents

    # the same batches in the same order for every kind: a function of the seed and the step
    batches = Steps(windows, budget.batch, steps, seed, with_needles)
    losses, seconds = train_plainly(
        model, (batches[step] for step in range(steps)), steps, budget.lr, device, precision
    )
    contexts = [budget.context // 4, budget.context // 2, budget.context, 2 * budget.context, 4 * budget.context]
    bits = measures.bits_per_byte(model, windows, contexts, budget.text_windows)
    needles = measures.marked_needles(model, windows, budget.needle_lengths, DEPTHS, budget.needles, 1_000)
    return {
        "parameters": parameters(model),
        "train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "train_tokens_per_second": steps * budget.batch * budget.context / seconds,
        "bits_per_byte": bits,
        "needles": needles,
        "why_missing": missing(model, [*contexts, *budget.needle_lengths]),
    }


def recall_cell(kind: str, seed: int, budget: Budget, windows: Windows, device: str, precision: str) -> dict[str, Any]:
    """Trains a fresh model on associative recall with 2 to `pairs` pairs, and measures it by pairs."""
    model = model_of(kind, budget, windows, seed).to(device)
    numbers = sorted({*(n for n in (2, 4, 8, 16, 32) if n < budget.pairs), budget.pairs})

    def batches():
        for step in range(budget.recall_steps):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            number = numbers[int(torch.randint(len(numbers), (1,), generator=generator))]
            yield (*recall_batch(32, number, generator), None)

    losses, _ = train_plainly(model, batches(), budget.recall_steps, budget.recall_lr, device, precision)
    return {"train_loss": sum(losses[-10:]) / len(losses[-10:]), "recall": measures.recall(model, numbers, 128, 2_000)}


def missing(model: SuiteForCausalLM, lengths: Sequence[int]) -> str:
    """Why some lengths cannot be measured, in words; empty where all can."""
    longest = measures.longest(model)
    if max(lengths) > longest:
        return f"the fixed stream ends at {longest} tokens"
    return ""


def train_plainly(
    model: SuiteForCausalLM, batches: Any, steps: int, lr: float, device: str, precision: str
) -> tuple[list[float], float]:
    """A short training loop without files: losses, and seconds. A cell that is killed begins anew, it takes minutes.

    Raises:
        UserError: a loss that is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Cosine(steps, 0.05))
    model.train()
    losses, seconds = [], 0.0
    half = precision.startswith("bf16")
    for step, (ids, labels, documents) in enumerate(batches):
        begun = time.perf_counter()
        ids, labels = ids.to(device), labels.to(device)
        several = documents is not None and bool((documents != documents[:, :1]).any())
        documents = documents.to(device) if several and documents is not None else None
        torch.manual_seed(step)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = model(ids, labels=labels, document_ids=documents).loss
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):  # asked before the step, which would spoil every weight
            raise UserError(
                f"the loss at step {step} is {losses[-1]}: {first_not_finite(model, ids)}",
                f"try a lower learning rate than {lr:g}",
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - begun
    model.eval()
    return losses, seconds


def cell_path(out: Path, part: str, kind: str, seed: int) -> Path:
    """The file of a cell."""
    name = kind.replace(":", "_").replace("/", "_")
    return out / "cells" / part / f"{name}-{seed}.json"
