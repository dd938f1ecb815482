"""``language-models inspect``."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from core_runtime.findings import Findings, FolderFindings, examine_files
from core_runtime.options import AtLeast
from language_models.texts.formats import find_texts, kind_of

FIRST = 1 << 22  # ids that are looked at


def inspect(
    path: Path, /, *, tokenizer: Path | None = None, at: Annotated[int, AtLeast(1)] = 65536
) -> Findings | FolderFindings:
    """Says what a text, a token file or a model folder holds; of a model also how much memory it will need.

    Example: language-models inspect run/model --at 1000000

    Args:
        path: a text or token file, a folder of them, or a model folder.
        tokenizer: bytes or a tokenizer.json, for texts and token files.
        at: tokens for which the memory of a model is forecast.
    """
    if (path / "config.json").is_file():
        return examine_model(path, at)
    files = find_texts(path)
    if path.is_file():
        return examine_text(path, tokenizer)
    return examine_files(path, files, lambda file: examine_text(file, tokenizer))


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first text."""
    return examine_text(find_texts(path)[0], None, pictures=True)


def examine_text(path: Path, tokenizer: Path | None, *, pictures: bool = False) -> Findings:
    """Looks at one text or token file.

    Raises:
        UserError: it cannot be read.
    """
    import numpy as np

    from language_models.texts.reading import read_corpus
    from language_models.texts.tokens import read_tokenizer

    reader = read_tokenizer(tokenizer)
    corpus = read_corpus(path, reader)
    ids, lengths = corpus.ids[:FIRST], np.diff([*corpus.starts, len(corpus.ids)])
    counts = np.bincount(ids, minlength=reader.size)
    shares = counts[counts > 0] / counts.sum()
    details: dict[str, Any] = {
        "documents": len(corpus.starts),
        "tokens": len(corpus.ids),
        "different tokens": int((counts > 0).sum()),
        "bits per token, each by itself": round(float(-(shares * np.log2(shares)).sum()), 3),
        "longest document": int(lengths.max()),
        "tokenizer": reader.name,
    }
    warnings = []
    if len(corpus.ids) < 2 * 256:
        warnings.append("the text is shorter than two windows of 256 tokens: train with a shorter --context")
    duplicates = Counter(bytes(np.asarray(corpus.ids[s : s + 200])) for s in corpus.starts)
    twice = sum(count - 1 for count in duplicates.values() if count > 1)
    if twice:
        warnings.append(f"{twice} documents begin like another one: held-out text may have been learned")
    drawn = []
    if pictures:
        from language_models.reports.text import draw_text

        drawn = [(draw_text(path.name, ids, lengths, reader), "Which tokens there are, and how long the documents are")]
    kind = {"text": "text", "records": "text records", "bytes": "bytes", "tokens": "token ids"}[kind_of(path) or "text"]
    documents = "1 document" if len(corpus.starts) == 1 else f"{len(corpus.starts):,} documents"
    return Findings(
        title=path.name,
        kind=kind,
        summary=f"{len(corpus.ids):,} tokens in {documents}",
        details=details,
        warnings=warnings,
        next_commands=[f"language-models train '{path}' --params 100000 --tokens 200000 --out run"],
        pictures=drawn,
    )


def examine_model(folder: Path, at: int) -> Findings:
    """Looks at a model folder: what it is, and how much memory it will need.

    Raises:
        UserError: it is none that this package knows.
    """
    from language_models.model.folder import load_model, parameters
    from language_models.model.forecast import peak_bytes, state_numbers

    loaded = load_model(str(folder))
    config, count = loaded.model.config, parameters(loaded.model)
    size = next(loaded.model.parameters()).element_size()
    lengths = sorted({1024, 8192, at})
    details: dict[str, Any] = {
        "model": config.model_type,
        "mechanism": getattr(config, "pattern", None)
        or getattr(config, "variant", None)
        or getattr(config, "attention", config.model_type),
        "parameters": count,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "tokenizer": loaded.tokenizer.name if loaded.tokenizer else "none in the folder",
    }
    for length in lengths:
        state, whole = size * state_numbers(config, length), peak_bytes(config, length, count, size)
        details[f"memory at {length:,} tokens"] = f"{whole / 1e6:.1f} MB, of which state {state / 1e6:.2f} MB"
    trained = loaded.described.get("provenance", {})
    for name in ("trained_on", "tokens", "seed"):
        if name in trained:
            details[name.replace("_", " ")] = trained[name]
    warnings = [] if loaded.tokenizer else ["the folder has no tokenizer: give --tokenizer to generate"]
    return Findings(
        title=folder.name,
        kind="language model",
        summary=f"{config.model_type} with {count:,} parameters",
        details=details,
        warnings=warnings,
        next_commands=[f"language-models generate 'Once' --model '{folder}'"],
    )
