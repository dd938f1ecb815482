"""The papers' findings in miniature: small trained models, and what they show, as JSON. Every command prints a line per model and goes on after a kill.

python scripts/language_findings.py recall --out findings                    # MQAR: Standard and hybrids beside uniform variants
python scripts/language_findings.py recall --layers 4 --kinds deconstructed-standard,hybrid:even:mlp --out findings
python scripts/language_findings.py rescue --text FILE --out findings        # bits per byte: uniform, a quarter Standard, Standard
python scripts/language_findings.py titans --text FILE --out findings        # Titans beside its windowed twin: bits per byte, needles
python scripts/language_findings.py landmark --text FILE --out findings      # marked pass keys up to 16 times the training length
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from core_runtime.folders import write_text
from language_models.arena.cells import DEPTHS, read_windows, train_plainly
from language_models.model.causal import SuiteForCausalLM
from language_models.model.folder import parameters
from language_models.model.kinds import Sizes, count_parameters, find_kind, fitted, new_model
from language_models.tasks import measures
from language_models.tasks.needles import plant
from language_models.tasks.recall import recall_batch
from language_models.texts.windows import Windows
from language_models.training.data import Steps

Batches = Iterator[tuple[Tensor, Tensor, None]]
RELAXED = ("mlp", "approx", "nonapprox", "rnd", "fixedseq", "static")


def sizes(vocab: int, context: int, *, layers: int, window: int = 16, landmark: int = 0, longest: int = 0) -> Sizes:
    """64 wide, 2 heads: the narrowest models that learned associative recall within a minute."""
    return Sizes(vocab, 64, layers, 2, 128, context, window, landmark, max(longest, context))


def model_for(kind: str, shared: Sizes, seed: int) -> SuiteForCausalLM:
    """A fresh model with the parameters of the Standard one."""
    target = count_parameters(find_kind("standard")(shared))
    return new_model(fitted(find_kind(kind), shared, target), seed)


def recall_batches(steps: int, seed: int) -> Batches:
    """64 sequences a step, of 2 or of 4 pairs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        number = (2, 4)[int(torch.randint(2, (1,), generator=generator))]
        yield (*recall_batch(64, number, generator), None)


def text_batches(windows: Windows, steps: int, batch: int, seed: int, questions: int, answers_only: bool) -> Batches:
    """Windows of the text with a marked needle, asked for `questions` times (0: no needle)."""
    mark = windows.corpus.tokenizer.mark
    batches = Steps(windows, batch, steps, seed)
    for step in range(steps):
        ids = batches[step][0]
        if questions:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            ids = plant(ids, windows.corpus.tokenizer, generator, questions=questions)[0]
        labels = ids
        if answers_only:
            after_mark = torch.zeros_like(ids, dtype=torch.bool)
            after_mark[:, 1:] = ids[:, :-1] == mark
            first = after_mark & (after_mark.cumsum(1) == 1)  # the needle itself cannot be known
            labels = ids.masked_fill(~after_mark | first, -100)
        yield ids, labels, None


def recall(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy by pairs; 8 were never trained."""
    model = model_for(kind, sizes(64, 64, layers=options.layers), options.seed)
    train_plainly(model, recall_batches(options.steps, options.seed), options.steps, options.lr, "cpu", "32-true")
    found = measures.recall(model, (2, 4, 8), 128, 2_000)
    return {"parameters": parameters(model), "recall": found}


def on_text(
    kind: str,
    options: argparse.Namespace,
    *,
    context: int,
    layers: int,
    questions: int,
    answers_only: bool = False,
    lengths: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Bits per byte within and beyond the training length, and needles by length."""
    windows = read_windows(options.text, context, None)
    tokenizer = windows.corpus.tokenizer
    longest = max((4 * context, *lengths)) + 2
    shared = sizes(tokenizer.size, context, layers=layers, landmark=tokenizer.landmark, longest=longest)
    model = model_for(kind, shared, options.seed)
    batches = text_batches(windows, options.steps, options.batch, options.seed, questions, answers_only)
    losses, _ = train_plainly(model, batches, options.steps, options.lr, "cpu", "32-true")
    found: dict[str, Any] = {"parameters": parameters(model), "train_loss": mean(losses[-20:])}
    if not answers_only:
        bits = measures.bits_per_byte(model, windows, (context, 2 * context, 4 * context), 24)
        found["bits_per_byte"] = {length: mean(values) for length, values in bits.items()}
    if lengths:
        found["needles"] = measures.marked_needles(model, windows, lengths, DEPTHS, 8, 1_000)
    return found


def rescue(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Four layers, of which the last stays Standard in 25 % hybrids."""
    return on_text(kind, options, context=64, layers=4, questions=0)


def titans(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """A window of 16, windows of text of 128 tokens."""
    return on_text(kind, options, context=128, layers=2, questions=8, lengths=(16, 32, 64, 128, 256))


def landmark(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Only the answers are learned, as a pass key is all that is asked for."""
    lengths = (64, 128, 256, 512, 1024)
    return on_text(kind, options, context=64, layers=2, questions=8, answers_only=True, lengths=lengths)


Finding = Callable[[str, argparse.Namespace], dict[str, Any]]
# name: what makes a model's figures, the kinds, steps, learning rate
FINDINGS: dict[str, tuple[Finding, tuple[str, ...], int, float]] = {
    "recall": (
        recall,
        ("deconstructed-standard", "mlp", *(f"hybrid:even:{kind}" for kind in RELAXED), "nonapprox", "static", "rnd"),
        700,
        0.003,
    ),
    "rescue": (
        rescue,
        ("deconstructed-standard", *RELAXED, *(f"hybrid:25%:{kind}" for kind in RELAXED)),
        500,
        0.003,
    ),
    "titans": (titans, ("sliding", "titans-mag", "titans-mac", "titans-mal"), 600, 0.003),
    "landmark": (landmark, ("landmark", "standard", "sliding"), 800, 0.003),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", choices=FINDINGS)
    parser.add_argument("--text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", help="only these, with commas between them")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--layers", type=int, default=2, help="of recall; 4 give a hybrid of every second layer two Standard ones"
    )
    options = parser.parse_args()
    make, kinds, steps, lr = FINDINGS[options.finding]
    options.steps, options.lr = options.steps or steps, options.lr or lr
    if options.finding != "recall" and options.text is None:
        parser.error("--text names the text to learn")
    torch.set_num_threads(1)
    for kind in options.kinds.split(",") if options.kinds else kinds:
        name = kind.replace(":", "_").replace("%", "")
        suffix = "" if options.layers == 2 else f"-{options.layers}-layers"
        path = options.out / options.finding / f"{name}{suffix}-{options.seed}.json"
        if not path.is_file():
            begun = time.process_time()
            found = make(kind, options)
            found |= {"kind": kind, "seed": options.seed, "steps": options.steps, "lr": options.lr}
            if options.finding == "recall":
                found["layers"] = options.layers
            write_text(path, json.dumps({**found, "seconds": time.process_time() - begun}) + "\n")
        print(path.read_text(encoding="utf-8").strip(), flush=True)


if __name__ == "__main__":
    main()
