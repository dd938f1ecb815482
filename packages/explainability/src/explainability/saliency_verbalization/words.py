"""A map over tokens in words: spans with their coverage, sentences from templates, prompts for language models, and how good they are."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explainability.saliency_verbalization.search import SearchOptions, search

Message = Mapping[str, str]
QUOTED = re.compile(r"“([^”]+)”|„([^“]+)“|\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)")


@dataclass(frozen=True)
class Span:
    """Consecutive salient tokens.

    Attributes:
        first: index of the first token in the whole text.
        last: of the last, included.
        coverage: share of all positive attribution.
        text: its words.
    """

    first: int
    last: int
    coverage: float
    text: str


@dataclass(frozen=True)
class Verbalization:
    """What a map says.

    Attributes:
        spans: the most important first.
        text: sentences from a template.
    """

    spans: Sequence[Span]
    text: str


def read_template(language: str | Path = "en") -> dict[str, Any]:
    """A template: one that comes with the package, by language, or a JSON file like those.

    Raises:
        ValueError: no such template, or one without the four sentences; says which.
    """
    if Path(language).suffix == ".json":
        text = Path(language).read_text(encoding="utf-8")
    else:
        place = resources.files("explainability.saliency_verbalization").joinpath("templates", f"{language}.json")
        if not place.is_file():
            raise ValueError(f"no template for {language!r}: there are en and de, or give a JSON file")
        text = place.read_text(encoding="utf-8")
    template = json.loads(text)
    missing = [name for name in ("noun", "first", "other", "nothing") if name not in template]
    if missing:
        raise ValueError(f"the template {language} lacks {', '.join(missing)}")
    return template


def merge_pieces(tokens: Sequence[str], attributions: NDArray[Any]) -> tuple[list[str], NDArray[np.floating]]:
    """Word pieces as words, their attributions added: BERT's ``##``, RoBERTa's ``Ġ``, SentencePiece's ``▁``. Other tokens stay."""
    begins = "Ġ▁"
    marked = any(token and token[0] in begins for token in tokens)
    words: list[str] = []
    sums: list[float] = []
    for token, value in zip(tokens, attributions, strict=True):
        continues = token.startswith("##")
        if marked and words and token and token[0] not in begins:
            # punctuation is a word of its own, as it is with BERT
            continues = token[0].isalnum()
        piece = token.removeprefix("##").lstrip(begins)
        if continues and words:
            words[-1] += piece
            sums[-1] += float(value)
        else:
            words.append(piece)
            sums.append(float(value))
    return words, np.array(sums)


def verbalize(
    tokens: Sequence[str],
    attributions: Any,
    *,
    label: str = "the prediction",
    options: SearchOptions | None = None,
    unit: str = "word",
    template: Mapping[str, Any] | None = None,
) -> Verbalization:
    """Says in words which spans of a text are salient.

    Args:
        tokens: of the text.
        attributions: one per token: list, array or captum's tensor. Those of exactly 0 (padding, special tokens) are left out.
        label: what the model said.
        options: of the search.
        unit: ``"word"`` merges word pieces first; ``"token"`` does not.
        template: see `read_template`; None: English.

    Raises:
        ValueError: not one finite number per token.
    """
    if hasattr(attributions, "detach"):
        attributions = attributions.detach().cpu().numpy()
    values = np.asarray(attributions, float)
    if values.shape != (len(tokens),):
        raise ValueError(f"needs one attribution per token: {len(tokens)} tokens, attributions of shape {values.shape}")
    if unit == "word":
        tokens, values = merge_pieces(tokens, values)
    attributed = np.flatnonzero(values)
    result = search(values[attributed], options)
    spans = []
    for run in result.runs:
        words = [tokens[int(index)] for index in attributed[run.first : run.last + 1]]
        spans.append(Span(int(attributed[run.first]), int(attributed[run.last]), run.coverage, " ".join(words)))
    return Verbalization(spans, _sentences(spans, label, template or read_template()))


def _sentences(spans: Sequence[Span], label: str, template: Mapping[str, Any]) -> str:
    if not spans:
        return template["nothing"]
    sentences = []
    for rank, span in enumerate(spans):
        words = span.text.split(" ")
        kind = "phrase"
        if len(words) == 1:
            kind = "word"
        elif "." in words:
            kind = "span"
        sentence = template["first" if rank == 0 else "other"]
        share = f"{100 * span.coverage:.1f}"
        sentences.append(sentence.format(label=label, noun=template["noun"][kind], text=span.text, share=share))
    return " ".join(sentences)


def instruction(tokens: Sequence[str], attributions: Any, label: str) -> list[Message]:
    """Messages for a language model: the text with each token's score, and what is asked. The true label is not in them."""
    scored = " ".join(f"{token} ({float(value):.2f})" for token, value in zip(tokens, attributions, strict=True))
    task = (
        f"A text classifier predicted the label “{label}” for the text below. Behind each word stands a score of how important it was for "
        f"this prediction; the scores were computed afterwards and the classifier did not see them."
    )
    question = "Explain briefly and in simple language why the classifier predicted this label. Quote the words that you refer to."
    return [{"role": "system", "content": task}, {"role": "user", "content": f"{scored}\n\n{question}"}]


def verbalize_with(
    llm: Callable[[Sequence[Message]], str], tokens: Sequence[str], attributions: Any, label: str, *, mask: str = ""
) -> str:
    """What a language model answers to `instruction`; `mask` takes the place of the label, so that others can guess it."""
    answer = llm(instruction(tokens, attributions, label))
    return answer.replace(label, mask) if mask else answer


def quotes(text: str) -> list[str]:
    """What stands between quotation marks."""
    return ["".join(match) for match in QUOTED.findall(text)]


def cov_at_k(tokens: Sequence[str], attributions: Any, text: str, k: int) -> float:
    """Of the k tokens with the greatest positive attribution, the mass of those that a text quotes, over all positive attribution."""
    values = np.asarray(attributions, float)
    positive = values[values > 0].sum()
    if positive == 0:
        return 0.0
    quoted = {word.lower() for quote in quotes(text) for word in quote.split()}
    best = [int(index) for index in np.argsort(-values, kind="stable")[:k] if values[index] > 0]
    return float(sum(values[index] for index in best if tokens[index].lower() in quoted) / positive)


def recitation_precision(tokens: Sequence[str], text: str) -> float:
    """Share of the quoted phrases that occur in the text; NaN where nothing is quoted."""
    quoted = quotes(text)
    if not quoted:
        return float("nan")
    whole = f" {' '.join(tokens).lower()} "
    return sum(f" {quote.lower().strip()} " in whole for quote in quoted) / len(quoted)
