"""What `evaluate` may be asked; imports nothing heavy."""

from pathlib import Path
from typing import Annotated

from core_runtime.options import AtLeast, Names, Numbers, options

TASKS = ("text", "needle", "passkey", "ruler", "recall", "attention", "harness")
DEFAULT = ("text", "needle", "attention")


@options
class TaskOptions:
    """What is asked.

    Attributes:
        tasks: of text (bits per byte by context), needle (marked needles), passkey, ruler (worded needles), recall (MQAR), attention
            (indicators), harness (lm-evaluation-harness, an extra).
        contexts: context lengths of the text; default: a quarter to four times the training context.
        lengths: lengths of needles, in tokens; default: 1 to 16 times the training context.
        depths: where needles stand, 0 to 1.
        each: needles for each length and depth.
        windows: held-out windows for each context.
        pairs: pairs of the recall.
        harness_tasks: names of lm-evaluation-harness; 'local' runs offline on the given text.
        tokenizer: bytes or a tokenizer.json, where the model folder has none.
    """

    tasks: Names = DEFAULT
    contexts: Numbers | None = None
    lengths: Numbers | None = None
    depths: Numbers = (0.0, 0.5, 1.0)
    each: Annotated[int, AtLeast(1)] = 8
    windows: Annotated[int, AtLeast(1)] = 16
    pairs: Numbers = (2, 4, 8)
    harness_tasks: Names = ("local",)
    tokenizer: Path | None = None
