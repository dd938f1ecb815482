"""Saliency map verbalisation under its published names: golden cases of both modes.

The sentences below are only what the recorded outputs are compared with; texts for people come from templates (see `words`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from core_attention.systems import Component, Config
from explainability.saliency_verbalization.search import (
    Hit,
    Run,
    Search,
    SearchOptions,
    convolution_filters,
    search,
    span_filters,
)


def _options(config: Config, mode: Any) -> SearchOptions:
    metric = config.get("metric", {"name": "mean", "value": 0.4})
    return SearchOptions(
        filter_length=config.get("filter_length", 5),
        sign=config.get("sgn", "+"),
        metric=metric["name"],
        value=metric["value"],
        top_k=config.get("top_k", 5),
        summary_quantile=config.get("summary_quantile", 0.75),
        mode=mode,
    )


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _listed(hits: Sequence[Hit]) -> dict[str, Any]:
    return {"indices": [list(hit.indices) for hit in hits], "values": [hit.value for hit in hits]}


def _snippets(hits: Sequence[Hit], tokens: Sequence[str], top_k: int) -> list[list[Any]]:
    """The best hits in words. A text is looked up by its value, so equal values give the first one's text again."""
    ranked = sorted(hits, key=lambda hit: -_percent(hit.coverage))
    lines = []
    for hit in ranked[:top_k]:
        first = next(other for other in hits if other.coverage == hit.coverage)
        words = " ".join(tokens[index] for index in first.indices)
        share = _percent(hit.coverage)
        lines.append([f"snippet: '{words} ' contains {share}% of prediction score.", share])
    return lines


def _common(result: Search, tokens: Sequence[str]) -> list[str]:
    spans = {hit.indices for hit in result.span}
    lines = []
    for hit in result.convolution:
        if hit.indices in spans:
            words = " ".join(tokens[index] for index in hit.indices)
            share = _percent(hit.coverage)
            lines.append(f"snippet: '{words}' occurs in all searches and accounts for {share}% of prediction score")
    return lines


def _total_order(result: Search, tokens: Sequence[str], count: int) -> list[str]:
    positive = result.attributions[result.attributions > 0].sum()
    order = np.argsort(-result.attributions, kind="stable")[:count]
    return [
        f"Token '{tokens[i]}' with {_percent(result.attributions[i] / positive)}% of prediction score" for i in order
    ]


def _summary(runs: Sequence[Run], tokens: Sequence[str]) -> str:
    sentences = []
    for rank, run in enumerate(runs):
        words = tokens[run.first : run.last + 1]
        noun = "word" if len(words) == 1 else "span" if "." in words else "phrase"
        verb = "is most important for the prediction" if rank == 0 else "is also salient"
        sentences.append(f"The {noun} » {' '.join(words)} « {verb}")
    return ". ".join(sentences)


def _run(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    attributions = np.asarray(inputs["attributions"], dtype=float)
    salient = attributions != 0
    tokens = [token for token, keep in zip(inputs["tokens"], salient, strict=True) if keep]
    attributions = attributions[salient]
    official = search(attributions, _options(config, "official"))
    options = _options(config, "corrected")
    corrected = search(attributions, options)
    expected = {
        "convolution": _listed(official.convolution),
        "span": _listed(official.span),
        "compare_verbalized": _common(official, tokens),
        "total_order_verbalized_top10": _total_order(official, tokens, 10),
        "summary": _summary(official.runs, tokens),
        "conv_verbalized_top5": _snippets(official.convolution, tokens, 5),
        "span_verbalized_top5": _snippets(official.span, tokens, 5),
    }
    runs = [
        {"first": run.first, "last": run.last, "coverage": run.coverage, "tokens": tokens[run.first : run.last + 1]}
        for run in corrected.runs
    ]
    expected_corrected: dict[str, Any] = {"total_top_k": list(corrected.top_tokens), "spans": runs}
    for name, hits in (("convolution", corrected.convolution), ("span", corrected.span)):
        expected_corrected[name] = {**_listed(hits), "coverage": [hit.coverage for hit in hits]}
    expected_corrected["threshold"] = corrected.threshold
    return {
        "expected": expected,
        "expected_corrected": expected_corrected,
        "normalised_attributions": torch.from_numpy(official.normalised),
        "threshold": torch.tensor([official.threshold], dtype=torch.float64),
        "filters_conv": torch.from_numpy(convolution_filters(options.filter_length).copy()),
        "filters_span": torch.from_numpy(span_filters(options.filter_length).copy()),
    }


components = {"search": Component(run=_run)}
