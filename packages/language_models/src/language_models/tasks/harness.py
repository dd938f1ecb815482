"""lm-evaluation-harness over our models: an adapter, and one local task so that it runs offline. Needs the extra ``harness``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from core_runtime.errors import UserError
from language_models.model.causal import SuiteForCausalLM
from language_models.texts.reading import Corpus
from language_models.texts.tokens import Tokenizer


@torch.inference_mode()
def score(model: SuiteForCausalLM, tokenizer: Tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """Log-probability of a continuation after a context, and whether it is the greedy one."""
    before = [int(i) for i in tokenizer.encode(context)] or [tokenizer.end]
    after = [int(i) for i in tokenizer.encode(continuation)]
    ids = torch.tensor([before + after], device=next(model.parameters()).device)
    logits = model(ids[:, :-1], logits_to_keep=len(after)).logits[0].float()
    targets = ids[0, -len(after) :]
    likelihoods = logits.log_softmax(-1).gather(-1, targets[:, None])
    return float(likelihoods.sum()), bool((logits.argmax(-1) == targets).all())


def adapter(model: SuiteForCausalLM, tokenizer: Tokenizer) -> Any:
    """Our model as a ``lm_eval.api.model.LM``.

    Raises:
        UserError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "the task harness needs lm-eval", "pip install 'attention-suite-language-models[harness]'"
        ) from None
    from language_models.model.folder import Loaded
    from language_models.model.inference import Decoding, continue_text

    loaded = Loaded(model, tokenizer, {})

    class Adapter(LM):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [score(model, tokenizer, *request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            return [score(model, tokenizer, "", request.args[0])[0] for request in requests]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            answers = []
            for request in requests:
                context, options = request.args
                text = continue_text(
                    loaded, tokenizer, context, Decoding(int(options.get("max_gen_toks", 64)), beyond=True)
                )
                for stop in options.get("until", ()):
                    text = text.split(stop)[0]
                answers.append(text)
            return answers

    return Adapter()


def local_task(corpus: Corpus, questions: int = 40, seed: int = 0) -> list[tuple[str, Sequence[str], int]]:
    """A task of the given text: which of four continuations belongs to a context. The wrong ones begin elsewhere in the text."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer, last = corpus.tokenizer, len(corpus.ids) - 96
    if last < 1:
        raise UserError(
            f"a text of {len(corpus.ids)} tokens is too short for the local task", "give a text of at least 97 tokens"
        )
    rows = []
    for _ in range(questions):
        starts = torch.randint(last, (4,), generator=generator).tolist()
        context = tokenizer.decode(corpus.ids[starts[0] : starts[0] + 64])
        choices = [tokenizer.decode(corpus.ids[s + 64 : s + 80]) for s in starts]
        right = int(torch.randint(4, (1,), generator=generator))
        choices[0], choices[right] = choices[right], choices[0]
        rows.append((context, choices, right))
    return rows


def run_harness(model: SuiteForCausalLM, tokenizer: Tokenizer, tasks: Sequence[str], corpus: Corpus) -> dict[str, Any]:
    """Accuracy of the harness's tasks by name; ``local`` is `local_task`, through the same adapter."""
    lm = adapter(model, tokenizer)
    found: dict[str, Any] = {}
    if "local" in tasks:
        from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

        rows, right = local_task(corpus), 0
        for context, choices, answer in rows:
            requests = [Instance("loglikelihood", {}, (context, choice), i) for i, choice in enumerate(choices)]
            scores = [
                value / max(1, len(choice))
                for (value, _), choice in zip(lm.loglikelihood(requests), choices, strict=True)
            ]
            right += scores.index(max(scores)) == answer
        found["local acc_norm"] = right / len(rows)
    others = [name for name in tasks if name != "local"]
    if others:
        # an extra: what types it has depends on whether it is there
        lm_eval: Any = import_module("lm_eval")
        try:
            results = lm_eval.simple_evaluate(lm, tasks=others, bootstrap_iters=0)
        except Exception as error:  # an unknown task, or no network
            raise UserError(
                f"lm-evaluation-harness: {(str(error).splitlines() or [type(error).__name__])[0]}",
                "check the names of the tasks and the network",
            ) from None
        for name, values in (results or {}).get("results", {}).items():
            for key, value in values.items():
                if isinstance(value, float) and math.isfinite(value):
                    found[f"{name} {key.split(',')[0]}"] = value
    return found
