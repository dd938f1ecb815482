"""``language-models train``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import RunOptions, flat, use_threads
from language_models.training.recipe import Recipe


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that ended.

    Attributes:
        model: its model folder.
        kind, parameters: of the model.
        loss: held-out nats per token.
        bits_per_byte: the same per byte of text.
    """

    model: Path
    kind: str
    parameters: int
    loss: float
    bits_per_byte: float

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "kind": self.kind,
            "parameters": self.parameters,
            "held_out_loss": self.loss,
            "bits_per_byte": self.bits_per_byte,
        }

    def lines(self) -> Iterable[str]:
        yield f"{self.kind}, {self.parameters:,} parameters: {self.bits_per_byte:.3f} bits per byte on held-out text"
        yield f"Model folder: {self.model}"
        yield f"Next: language-models generate 'Once' --model {self.model}"


def train(text: str, /, *, recipe: Recipe = Recipe(), run: RunOptions = RunOptions()) -> Trained:
    """Trains a language model on text. An interrupted run goes on with --resume, bit by bit as if it had not been interrupted.

    Example: language-models train book.txt --kind titans-mag --params 300000 --tokens 500000 --out run

    Args:
        text: a text file, JSON lines, gzip, token file (.npy, .bin), a folder of them, or hf:NAME for a Hugging Face data set.
    """
    import math

    from core_runtime.folders import open_run
    from core_runtime.identity import data_fingerprint
    from core_runtime.training import draw_history, fit
    from language_models.model.folder import parameters, save_model
    from language_models.model.kinds import find_kind, fitted, new_model, sizes_for
    from language_models.texts.formats import DATASET, find_texts
    from language_models.texts.reading import read_corpus
    from language_models.texts.tokens import read_tokenizer
    from language_models.texts.windows import windows_of
    from language_models.training.data import Steps, TextData
    from language_models.training.module import TextTraining

    use_threads(run.threads)
    make = find_kind(recipe.kind)
    tokenizer = read_tokenizer(recipe.tokenizer)
    files = [] if text.startswith(DATASET) else list(find_texts(Path(text)))
    corpus = read_corpus(text, tokenizer, field=recipe.field)
    windows = windows_of(corpus, recipe.context)
    sizes = sizes_for(recipe.params, vocab_size=tokenizer.size, context=recipe.context, landmark=tokenizer.landmark)
    config = fitted(make, sizes, recipe.params)
    config.eos_token_id = tokenizer.end
    source = text if text.startswith(DATASET) else Path(text).resolve()
    recorded = open_run(
        run,
        flat(text=source, recipe=recipe),
        packages=["torch", "transformers", "lightning"],
        data=data_fingerprint(files),
    )
    model = new_model(config, run.seed)
    module = TextTraining(model, recipe, windows, run.seed)
    steps = recipe.steps(windows.count)
    data = TextData(Steps(windows, recipe.batch, steps, run.seed), recipe.save_every, run.workers)
    left = fit(
        module,
        data,
        run,
        epochs=len(data.rounds),
        trainer={
            "gradient_clip_val": recipe.clip,
            "reload_dataloaders_every_n_epochs": 1,
        },
    )
    held_out = corpus.ids[len(corpus.ids) - windows.held_out :][: 1 << 20]
    per_byte = len(held_out) / max(1, tokenizer.byte_count(held_out))
    loss = left.best["held_out_loss"]
    provenance = {
        "trained_on": text,
        "tokens": steps * recipe.batch * recipe.context,
        "seed": run.seed,
        "kind": recipe.kind,
        "arguments": recorded,
    }
    folder = save_model(module.model.cpu(), run.out / "model", tokenizer=tokenizer, provenance=provenance)
    if len(left.history) > 1:
        draw_history(left.history, run.out / "figures" / "history.png", [["train_loss", "held_out_loss"], ["lr"]])
    return Trained(folder, recipe.kind, parameters(model), loss, loss * per_byte / math.log(2))
