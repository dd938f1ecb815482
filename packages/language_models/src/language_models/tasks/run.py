"""The tasks of ``evaluate``, one after the other."""

from __future__ import annotations

import csv
import io
import math
from statistics import mean
from typing import Any

from core_runtime.errors import UserError
from core_runtime.terminal import warn
from language_models.model.causal import SuiteForCausalLM
from language_models.tasks import measures
from language_models.tasks.needles import grid, pass_key, ruler
from language_models.tasks.options import NEEDLE, PAIRS, TaskOptions, check_depths, whole_numbers
from language_models.texts.reading import Corpus
from language_models.texts.windows import Windows, windows_of


def run_tasks(model: SuiteForCausalLM, corpus: Corpus, task: TaskOptions, seed: int) -> dict[str, Any]:
    """The measures of the tasks asked for, and under ``windows`` a table (CSV) of every held-out window."""
    context = model.config.max_position_embeddings
    contexts = [max(2, n) for n in (context // 4, context // 2, context, 2 * context, 4 * context)]
    if task.contexts:
        contexts = list(whole_numbers(task.contexts, "--contexts", 2))
    lengths = [context * factor for factor in (1, 2, 4, 8, 16)]
    if task.lengths:
        lengths = list(whole_numbers(task.lengths, "--lengths", NEEDLE))
    pairs = whole_numbers(task.pairs, "--pairs", 1, PAIRS)
    check_depths(task.depths)
    windows = windows_of(corpus, max(2, min(contexts)))
    measured: dict[str, Any] = {
        **{name: {} for name in ("bits_per_byte", "perplexity", "needles", "recall", "worded", "harness")},
        "attention": [],
        "windows": "",
    }
    if "text" in task.tasks:
        _text(model, windows, contexts, task, measured)
    if "needle" in task.tasks:
        _check_marks(model, corpus)
        measured["needles"] = measures.marked_needles(model, windows, lengths, task.depths, task.each, seed)
    if "recall" in task.tasks:
        measured["recall"] = measures.recall(model, pairs, 32 * task.each, seed)
    tokenizer = corpus.tokenizer
    if "passkey" in task.tasks:
        prompts = grid(lengths, task.depths, pass_key, task.each, seed)
        measured["worded"]["passkey"] = measures.worded_needles(model, tokenizer, prompts)
    if "ruler" in task.tasks:
        haystack = tokenizer.decode(corpus.ids[len(corpus.ids) - windows.held_out :][: max(lengths)])
        for number in (1, 2, 3):
            prompts = grid(lengths, task.depths, lambda n, d, s, k=number: ruler(k, n, d, s, haystack), task.each, seed)
            measured["worded"][f"ruler {number}"] = measures.worded_needles(model, tokenizer, prompts)
    if "attention" in task.tasks:
        length = min(128, windows.held_out, measures.longest(model))
        ids, _ = next(windows.held_out_windows(length, 1))
        measured["attention"] = measures.attention_table(model, ids.to(next(model.parameters()).device))
    if "harness" in task.tasks:
        from language_models.tasks.harness import run_harness

        measured["harness"] = run_harness(model, tokenizer, task.harness_tasks, corpus)
    asked = {
        "text": ("context", task.contexts and contexts, "bits_per_byte"),
        "needle": ("needle length", task.lengths and lengths, "needles"),
        "recall": ("number of pairs", pairs, "recall"),
    }
    for name, (what, numbers, key) in asked.items():
        left_out = [str(number) for number in numbers or () if number not in measured[key]]
        if name in task.tasks and left_out:
            warn(f"left out, longer than the text or the model's fixed stream: {what} {', '.join(left_out)}")
    return measured


def _text(
    model: SuiteForCausalLM, windows: Windows, contexts: list[int], task: TaskOptions, found: dict[str, Any]
) -> None:
    values = measures.bits_per_byte(model, windows, contexts, task.windows)
    if not values:
        raise UserError(
            f"the held-out text has {windows.held_out} tokens, too few for a context of {min(contexts)}",
            "give a longer text, or shorter --contexts",
        )
    tokenizer = windows.corpus.tokenizer
    held_out = windows.corpus.ids[len(windows.corpus.ids) - windows.held_out :][: 1 << 20]
    per_token = tokenizer.byte_count(held_out) / len(held_out)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["context", "window", "bits_per_byte"])
    for context, row in values.items():
        found["bits_per_byte"][context] = mean(row)
        found["perplexity"][context] = math.exp(min(700.0, mean(row) * math.log(2) * per_token))
        for number, value in enumerate(row):
            writer.writerow([context, number, f"{value:.6f}"])
    found["windows"] = out.getvalue()


def _check_marks(model: SuiteForCausalLM, corpus: Corpus) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if corpus.tokenizer.mark >= rows:
        raise UserError(
            f"the model has {rows} ids and no mark for needles (id {corpus.tokenizer.mark})",
            "ask for --tasks text,passkey,ruler instead",
        )
