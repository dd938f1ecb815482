"""``language-models models``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import AtLeast
from language_models.model.published import NOTICE, PUBLISHED


def convert(
    source: Path,
    /,
    *,
    out: Path = Path("model"),
    to: Literal["suite", "transformers"] = "suite",
    arguments: Path | None = None,
) -> Described:
    """Makes a model folder of transformers' Doge, LLaMA or Qwen2, of the published landmark models or of titans-pytorch, or writes ours as one of
    transformers'.

    Example: language-models models convert SmallDoge/Doge-20M --out model

    Args:
        source: a model folder, or with --arguments a checkpoint file.
        out: the new one.
        to: ours, or transformers' own class.
        arguments: of a checkpoint file (titans-pytorch, landmark's small model): JSON of the arguments of its constructor.
    """
    from language_models.model.convert import from_arguments, to_transformers
    from language_models.model.folder import TOKENIZER, load_model, parameters, save_model

    _free(out)
    if arguments is not None:
        if to != "suite":
            raise UserError("a checkpoint file is made ours, not transformers'", "leave out --to or --arguments")
        model = from_arguments(source, arguments)
        save_model(model, out, tokenizer=None, provenance={"converted_from": str(source)})
        return Described({"model": str(out), "type": model.config.model_type, "parameters": parameters(model)})
    loaded = load_model(str(source))
    if to == "transformers":
        from core_runtime.folders import writing

        other = to_transformers(loaded.model)
        with writing(out) as part:
            part.mkdir()
            other.save_pretrained(part)
            if (source / TOKENIZER).is_file():
                (part / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
        return Described({"model": str(out), "class": type(other).__name__, "parameters": parameters(other)})
    save_model(loaded.model, out, tokenizer=loaded.tokenizer, provenance={"converted_from": str(source)})
    return Described(
        {"model": str(out), "type": loaded.model.config.model_type, "parameters": parameters(loaded.model)}
    )


def recover(raw: Path, difference: Path, /, *, out: Path = Path("model"), checksum: float | None = None) -> Described:
    """Adds the published weight difference of the landmark LLaMA to LLaMA's own weights.

    Example: language-models models recover llama-7b landmark-attention-llama7b-wdiff --out model

    Args:
        raw: folder of LLaMA's weights.
        difference: folder of the published difference.
        out: the model folder.
        checksum: sum of all recovered numbers, as published; another sum is an error.
    """
    from language_models.model.convert import recover_landmark
    from language_models.model.folder import parameters, save_model

    _free(out)
    model = recover_landmark(raw, difference, checksum=checksum)
    save_model(model, out, tokenizer=None, provenance={"recovered_from": [str(raw), str(difference)]})
    return Described({"model": str(out), "parameters": parameters(model)})


def patch(
    model: Path,
    /,
    *,
    to: Literal["landmark", "moh", "dma", "moba"],
    out: Path = Path("model"),
    window: Annotated[int, AtLeast(2)] = 512,
) -> Described:
    """Turns a dense LLaMA (or, with moba, Qwen2) checkpoint into one with a mechanism, and says what must be trained again.

    Example: language-models models patch llama --to landmark --out landmark-llama

    Args:
        model: folder of a dense model.
        to: the mechanism.
        out: the new model folder.
        window: tokens that dma keeps, or of a block.
    """
    from language_models.model.convert import patch as patched
    from language_models.model.folder import load_model, parameters, save_model

    _free(out)
    loaded = load_model(str(model))
    result = patched(loaded.model, to, window=window)
    save_model(result.model, out, tokenizer=loaded.tokenizer, provenance={"patched_from": str(model), "to": to})
    new = f"{len(result.new)} tensors, such as {result.new[0]}" if result.new else "none"
    return Described({"model": str(out), "parameters": parameters(result.model), "new": new, "retrain": result.retrain})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: language-models models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from language_models.model.folder import load_model, parameters

    model = load_model(folder).model
    with torch.inference_mode():
        logits = model(torch.arange(8)[None] % model.config.vocab_size).logits
    if not bool(logits.isfinite().all()):
        raise UserError(f"{folder}: the model's answers are not finite", "its weights are damaged: train again")
    return Described({"model": folder, "type": model.config.model_type, "parameters": parameters(model)})


@dataclass(frozen=True)
class KindList(Outcome):
    """Name and model type of every mechanism."""

    kinds: Sequence[tuple[str, str]]

    def facts(self) -> dict[str, Any]:
        return {"kinds": dict(self.kinds)}

    def lines(self) -> Iterable[str]:
        for name, model_type in self.kinds:
            yield f"{name:24} {model_type}"
        yield "Patterns such as hybrid:25%:nonapprox, and FILE.py of your own, are kinds too."


def kinds() -> KindList:
    """Lists the mechanisms that 'train --kind' and 'arena --kinds' know.

    Example: language-models models kinds
    """
    from language_models.model.kinds import KINDS, sizes_for

    sizes = sizes_for(1_000_000, vocab_size=259, context=256, landmark=257)
    return KindList([(name, make(sizes).model_type) for name, make in KINDS.items()])


def _free(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")


models = models_group(PUBLISHED, convert, recover, patch, check, kinds, command="language-models", notice=NOTICE)
