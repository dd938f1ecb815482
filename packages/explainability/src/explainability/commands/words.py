"""``explainability words``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, options


@options
class SearchChoices:
    """What counts as salient.

    Attributes:
        sign: tokens that speak for the prediction (plus), against it (minus), or any.
        metric: threshold: mean of the greatest, quantile (standard deviations) or variance.
        value: of the metric: share of the tokens, or how many deviations.
        window: tokens that a search looks at together.
        mode: corrected, or official with the published code's faults.
    """

    sign: Literal["plus", "minus", "any"] = "plus"
    metric: Literal["mean", "quantile", "variance"] = "mean"
    value: Annotated[float, Above(0)] = 0.4
    window: Annotated[int, AtLeast(3)] = 5
    mode: Literal["corrected", "official"] = "corrected"


@dataclass(frozen=True)
class Verbalized(Outcome):
    """Maps over tokens in words.

    Attributes:
        texts: of each line its text and spans.
    """

    texts: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        return {"texts": list(self.texts)}

    def lines(self) -> Iterable[str]:
        for entry in self.texts:
            yield str(entry["text"])


def words(
    path: Path,
    /,
    *,
    choices: SearchChoices = SearchChoices(),
    language: str = "en",
    unit: Literal["word", "token"] = "word",
) -> Verbalized:
    """Says in words which parts of texts were salient, from token attributions; no model is asked.

    Example: explainability words attributions.jsonl --language de

    Args:
        path: JSON lines with tokens, attributions and optionally label.
        language: en or de, or a JSON file with your own sentences.
        unit: word merges word pieces (BERT, RoBERTa, SentencePiece) first.
    """
    from explainability.saliency_verbalization.search import SearchOptions
    from explainability.saliency_verbalization.words import read_template, verbalize

    if not path.is_file():
        raise UserError(f"no such file: {path}", 'give JSON lines like {"tokens": ["good"], "attributions": [0.7]}')
    try:
        template = read_template(language)
    except (OSError, ValueError) as error:
        raise UserError(f"--language {language}: {error}") from None
    sign: Any = {"plus": "+", "minus": "-", "any": None}[choices.sign]
    search = SearchOptions(choices.window, sign, choices.metric, choices.value, mode=choices.mode)
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            label = str(record.get("label", "the prediction"))
            tokens = [str(token) for token in record.get("tokens", record.get("input_ids"))]
            verbalised = verbalize(
                tokens, record["attributions"], label=label, options=search, unit=unit, template=template
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number}: not usable ({type(error).__name__}: {error})",
                "a line has tokens and as many finite attributions",
            ) from None
        texts.append({"line": number, "text": verbalised.text, "spans": [asdict(span) for span in verbalised.spans]})
    if not texts:
        raise UserError(f"{path} holds no texts")
    return Verbalized(texts)
