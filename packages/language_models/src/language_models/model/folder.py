"""Model folders: transformers' own (``config.json``, ``model.safetensors``), with the tokenizer and where the weights come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from core_runtime.errors import UserError
from core_runtime.folders import writing
from core_runtime.models import choose_model
from language_models.model.causal import SuiteForCausalLM
from language_models.model.registration import MODELS
from language_models.texts.tokens import BYTE_TOKENIZER, Tokenizer, tokenizer_of

ADVICE = "'language-models train TEXT --out RUN' makes RUN/model; 'language-models models convert' reads published checkpoints"
TOKENIZER = "tokenizer.json"
SUITE = "suite.json"


class Loaded(NamedTuple):
    """A model, its tokenizer (None where the folder has none), and what ``suite.json`` says of it."""

    model: SuiteForCausalLM
    tokenizer: Tokenizer | None
    described: Mapping[str, Any]


def save_model(
    model: SuiteForCausalLM, folder: Path, *, tokenizer: Tokenizer | None, provenance: Mapping[str, Any]
) -> Path:
    """Writes a model folder, whole or not at all."""
    name = None if tokenizer is None else tokenizer.name
    with writing(folder) as part, quiet_transformers():
        part.mkdir()
        model.save_pretrained(part)
        (part / SUITE).write_text(json.dumps({"tokenizer": name, "provenance": dict(provenance)}, indent=1) + "\n")
        if tokenizer is not None and tokenizer.json is not None:
            (part / TOKENIZER).write_text(tokenizer.json, encoding="utf-8")
    return folder


def load_model(folder: str | None, device: str = "cpu") -> Loaded:
    """The model of ``--model``, ready to be used: a folder of this package, or one of transformers' Doge, LLaMA or Qwen2.

    Raises:
        UserError: none was given, or it is not a folder of a language model that this package knows.
    """
    source = Path(choose_model(folder, advice=ADVICE))
    model = read_folder(source).to(device).eval()
    check_finite(model, source)
    try:
        _ = model.prefill
    except ValueError as error:  # landmarks leave no room for a chunk of the prompt
        raise UserError(
            f"{source}: {error}", f"mend cache_top_k or train_context_length in {source / 'config.json'}"
        ) from None
    described: Mapping[str, Any] = {}
    if (source / SUITE).is_file():
        described = json.loads((source / SUITE).read_text(encoding="utf-8"))
    tokenizer = None
    if (source / TOKENIZER).is_file():
        tokenizer = tokenizer_of((source / TOKENIZER).read_text(encoding="utf-8"), str(source / TOKENIZER))
    elif described.get("tokenizer") == "bytes":
        tokenizer = BYTE_TOKENIZER
    return Loaded(model, tokenizer, described)


def check_finite(model: torch.nn.Module, where: Path) -> None:
    """Raises UserError where a weight is not a finite number: such a model answers with nonsense."""
    wrong = {name: int((~x.isfinite()).sum()) for name, x in model.state_dict().items() if x.is_floating_point()}
    wrong = {name: count for name, count in wrong.items() if count}
    if wrong:
        name = next(iter(wrong))
        raise UserError(
            f"{where}: {sum(wrong.values())} weights are not finite, the first in {name}",
            "the training has diverged: train again with a lower --lr",
        )


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` holds.

    Raises:
        UserError: it is missing or not a JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no config.json: it is not a model folder", ADVICE) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json cannot be read: {error}", ADVICE) from None
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is not a JSON object", ADVICE)
    return config


def read_folder(folder: Path) -> SuiteForCausalLM:
    """The model of a folder, loaded strictly.

    Raises:
        UserError: another kind of model, or weights that do not fit.
    """
    from language_models.model.convert import FOREIGN, from_transformers

    config = read_config(folder)
    model_type = config.get("model_type")
    if model_type in FOREIGN:
        return from_transformers(folder, config)
    if model_type not in MODELS:
        known = ", ".join((*MODELS, *FOREIGN))
        raise UserError(f"{folder} holds a model of type {model_type!r}, which is none of {known}", ADVICE)
    try:
        with quiet_transformers():
            loaded: Any = MODELS[model_type].from_pretrained(
                folder, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            model, report = loaded
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        text = "the weights have other shapes than config.json says"
        if "ignore_mismatched_sizes" not in str(error):
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder}: {text}", "the folder is damaged: convert or train again") from None
    problems = {what: sorted(map(str, names)) for what, names in report.items() if names and what.endswith("_keys")}
    if problems:
        what, names = next(iter(problems.items()))
        raise UserError(
            f"{folder}: {len(names)} {what.replace('_', ' ')}, such as {names[0]}",
            "the weights do not belong to this config.json",
        )
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' progress bars and advice; our own lines say what matters."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def parameters(model: torch.nn.Module) -> int:
    """Numbers that can be trained."""
    return sum(p.numel() for p in model.parameters())
