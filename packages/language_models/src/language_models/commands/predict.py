"""``language-models predict``: `generate` for every prompt of a file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.options import BulkOptions, Device, Model, Out, Seed, resolve_device
from language_models.commands.generate import DecodingOptions, decoding_of
from language_models.texts.formats import find_texts


@dataclass(frozen=True)
class Continuations(BulkOutcome):
    """How the prompts of each file go on.

    Attributes:
        out: a folder with one JSON-lines file for each file of prompts.
        continuations: prompt and text of each, of the files that succeeded.
        attempts: what became of each file.
    """

    out: Path
    continuations: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"continuations": self.continuations, "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for each in self.continuations:
            yield f"…{each['prompt'][-60:]} → {each['text'][:80]}".replace("\n", " ")
        yield f"Files: {self.out}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    decoding: DecodingOptions = DecodingOptions(),
    out: Out = Path("language-models-continuations"),
    device: Device = "auto",
    seed: Seed = 0,
    run: BulkOptions = BulkOptions(),
) -> Continuations:
    """Continues every prompt of a file: a text is one prompt, of JSON lines each record is one. A rerun goes on with the files that are not done.

    Example: language-models predict prompts.jsonl --model run/model --new-tokens 50

    Args:
        path: a text file, JSON lines, or a folder of them.
    """
    from core_runtime.identity import identity, model_identity
    from language_models.model.inference import tokenizer_for
    from language_models.texts.reading import read_corpus
    from language_models.texts.tokens import read_tokenizer

    files = find_texts(path)
    rules = decoding_of(decoding, seed)
    given = None if decoding.tokenizer is None else read_tokenizer(decoding.tokenizer)
    if model is None and len(files) == 1:
        read_corpus(files[0], read_tokenizer(None))  # a mistake in a single file is the user's first line
    loaded = _load(model, resolve_device(device))
    tokenizer = tokenizer_for(loaded, given)
    if len(files) == 1:
        read_corpus(files[0], tokenizer)
    key = {"model": model_identity(Path(str(model))), "options": asdict(rules)}
    name = None if decoding.tokenizer is None else str(decoding.tokenizer)
    items = [
        Item(
            file.name,
            (str(file), model, resolve_device(device), rules, name),
            out / f"{file.name}.continued.jsonl",
            key={"input": identity(file), **key},
            inputs=[file],
        )
        for file in files
    ]
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Continuing")
    continuations = []
    for item, attempt in zip(items, attempts, strict=True):
        if attempt.ok:
            continuations += [json.loads(line) for line in item.output.read_text(encoding="utf-8").splitlines()]
    return Continuations(out, continuations, attempts)


@keep_latest
def _load(model: str | None, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from language_models.model.folder import load_model

    return load_model(model, device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the continuations of one file."""
    from core_runtime.folders import write_text
    from language_models.model.inference import continue_text, tokenizer_for
    from language_models.texts.reading import read_corpus
    from language_models.texts.tokens import read_tokenizer

    path, model, device, decoding, name = item.source
    loaded = _load(model, device)
    tokenizer = tokenizer_for(loaded, None if name is None else read_tokenizer(name))
    corpus = read_corpus(path, tokenizer)
    ends = [*corpus.starts[1:], len(corpus.ids)]
    rows = []
    for begin, end in zip(corpus.starts, ends, strict=True):
        prompt = tokenizer.decode(corpus.ids[begin:end])
        rows.append({"prompt": prompt, "text": continue_text(loaded, tokenizer, prompt, decoding)})
    if not rows:
        raise UserError(f"{path} holds no prompt", "give a text with at least one character")
    write_text(item.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"prompts": len(rows)}
