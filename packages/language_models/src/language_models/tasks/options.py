"""What `evaluate` may be asked; imports nothing heavy."""

from pathlib import Path
from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Names, Numbers, options

TASKS = ("text", "needle", "passkey", "ruler", "recall", "attention", "harness")
DEFAULT = ("text", "needle", "attention")


NEEDLE = 4  # tokens of the shortest window that holds a needle and its question
PAIRS = 32  # there are so many keys


def whole_numbers(values: Numbers, what: str, least: int, most: int | None = None) -> tuple[int, ...]:
    """Lengths and counts of a list.

    Raises:
        UserError: fractions, or numbers outside `least` … `most`.
    """
    wrong = [v for v in values if v != int(v) or v < least or (most is not None and v > most)]
    if wrong:
        allowed = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise UserError(
            f"{what} {wrong[0]:g} is not a whole number {allowed}", f"give {what} such as {least},{2 * least}"
        )
    return tuple(int(v) for v in values)


def check_depths(depths: Numbers) -> None:
    """Raises UserError where a depth is not from 0 to 1."""
    wrong = [depth for depth in depths if not 0 <= depth <= 1]
    if wrong:
        raise UserError(f"--depths {wrong[0]:g} is not from 0 to 1", "0 is the beginning of a text, 1 its end")


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
