"""``language-models evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, Seed, resolve_device
from language_models.tasks.options import TASKS, TaskOptions


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures of a model.

    Attributes:
        perplexity: exp of the mean loss per token, by context.
        bits_per_byte: mean over windows, by context.
        needles, recall, worded, attention, harness: of the tasks that were asked.
        table: the JSON file.
    """

    bits_per_byte: Mapping[int, float]
    perplexity: Mapping[int, float]
    needles: Mapping[int, Mapping[float, float]]
    recall: Mapping[int, float]
    worded: Mapping[str, Sequence[Mapping[str, Any]]]
    attention: Sequence[Mapping[str, Any]]
    harness: Mapping[str, Any]
    table: Path

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def lines(self) -> Iterable[str]:
        for context, value in self.bits_per_byte.items():
            yield f"context {context:6}  {value:.3f} bits per byte  perplexity {self.perplexity[context]:.2f}"
        for length, row in self.needles.items():
            yield f"needle {length:7}  " + "  ".join(f"depth {depth:.0%}: {share:.2f}" for depth, share in row.items())
        for pairs, share in self.recall.items():
            yield f"recall {pairs:7} pairs  {share:.2f}"
        for name, rows in self.worded.items():
            right = [row["right"] for row in rows if row["right"] is not None]
            yield f"{name}: {sum(right)} of {len(right)} right" + (
                f", {len(rows) - len(right)} too long" if len(right) < len(rows) else ""
            )
        for row in self.attention:
            yield f"{row['layer']}: entropy {row['entropy']:.2f}, sink {row['sink']:.3f}, head diversity {row['head_diversity']:.4f}"
        for name, value in self.harness.items():
            yield f"{name}: {value}"
        yield f"Table: {self.table}"


def evaluate(
    text: Path,
    /,
    *,
    model: Model = None,
    task: TaskOptions = TaskOptions(),
    out: Out = Path("language-models-evaluation"),
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model on the end of a text and on tasks made by rule.

    Example: language-models evaluate book.txt --model run/model --tasks text,needle

    Args:
        text: the text that the model was trained on, whose last tenth it has not seen, or another one.
    """
    from core_runtime.folders import write_text
    from language_models.model.folder import load_model
    from language_models.model.inference import tokenizer_for
    from language_models.tasks.run import run_tasks
    from language_models.texts.reading import read_corpus
    from language_models.texts.tokens import read_tokenizer

    unknown = [name for name in task.tasks if name not in TASKS]
    if unknown:
        raise UserError(f"no task is called {', '.join(unknown)}", f"known: {', '.join(TASKS)}")
    table = out / "metrics.json"
    if table.exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    loaded = load_model(model, resolve_device(device))
    tokenizer = tokenizer_for(loaded, None if task.tokenizer is None else read_tokenizer(task.tokenizer))
    corpus = read_corpus(text, tokenizer)
    measures = run_tasks(loaded.model, corpus, task, seed)
    windows = measures.pop("windows")
    write_text(table, json.dumps({"model": str(model), "text": str(text), **measures}, indent=1) + "\n")
    if windows:
        write_text(out / "windows.csv", windows)
    return Evaluation(**measures, table=table)
