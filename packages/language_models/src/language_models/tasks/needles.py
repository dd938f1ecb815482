"""Needles: a fact at some depth of a text, asked for at its end. Made by rule from a seed; nothing is downloaded.

Two kinds. *Marked* needles are for small models trained here: ``[mark] value`` somewhere in a text, ``[mark]`` at its end; marks and values are ids
that no text holds. *Worded* ones are prompts for models
that read: the landmark paper's pass key, and RULER's three single needles (number in noise, number in text, word in text).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from core_runtime.errors import UserError
from language_models.texts.tokens import Tokenizer


def plant(
    ids: Int[Tensor, "batch time"],
    tokenizer: Tokenizer,
    generator: torch.Generator,
    depth: float | None = None,
    questions: int = 1,
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, " batch"]]:
    """Windows with a marked needle, and the question for it as the last two tokens, of which the last is the answer.

    Args:
        depth: where the needle stands, 0 at the beginning, 1 just before the question; None: anywhere.
        questions: how often it is asked for; those before the last stand anywhere behind the needle.

    Returns:
        the ids, and the answers.
    """
    ids = ids.clone()
    batch, time = ids.shape
    values = torch.tensor(tokenizer.values)
    answers = values[torch.randint(len(values), (batch,), generator=generator)]
    last = time - 4  # of the first token of a needle
    for sample in range(batch):
        place = int(torch.randint(last + 1, (1,), generator=generator)) if depth is None else round(depth * last)
        places = [place, time - 2]
        for _ in range(questions - 1):
            places.append(int(torch.randint(place, time - 1, (1,), generator=generator)))
        for begin in places:
            ids[sample, begin], ids[sample, begin + 1] = tokenizer.mark, answers[sample]
    return ids, answers


@dataclass(frozen=True)
class Prompt:
    """A worded needle.

    Attributes:
        text: the prompt.
        answer: what must follow.
        length, depth: tokens asked for, and where the needle stands.
    """

    text: str
    answer: str
    length: int
    depth: float


FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def pass_key(length: int, depth: float, seed: int) -> Prompt:
    """The landmark paper's prompt of about `length` characters: a key of 1 to 50,000 in a fixed filler."""
    key = random.Random(seed).randint(1, 50_000)
    task = (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
        "I will quiz you about the important information there.\n"
    )
    needle = f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
    question = "\nWhat is the pass key? The pass key is"
    room = _room(length, task + needle + question)
    filler = (FILLER * (room // len(FILLER) + 1))[:room]
    place = round(depth * room)
    return Prompt(task + filler[:place] + needle + filler[place:] + question, str(key), length, depth)


def _room(length: int, words: str) -> int:
    """Characters of filler in a prompt of `length`.

    Raises:
        UserError: the words of the prompt alone are longer.
    """
    if length < len(words):
        raise UserError(
            f"a worded needle of {length} tokens cannot be made: its words alone have {len(words)} characters",
            "give --lengths from 300 on, or ask for --tasks needle",
        )
    return length - len(words)


WORDS = (
    "amber",
    "basalt",
    "cobalt",
    "damask",
    "ebony",
    "fjord",
    "garnet",
    "harbour",
    "indigo",
    "jasper",
    "kelp",
    "lagoon",
)


def ruler(number: int, length: int, depth: float, seed: int, haystack: str) -> Prompt:
    """RULER's single needles: 1, a number in repeated noise; 2, a number in text; 3, a word of letters and digits in text."""
    draw = random.Random(seed * 17 + number)
    key = draw.choice(WORDS)
    if number == 3:
        kind, value = "word", "-".join("".join(draw.choice("0123456789abcdef") for _ in range(4)) for _ in range(3))
    else:
        kind, value = "number", str(draw.randint(1_000_000, 9_999_999))
    needle = f" One of the special magic {kind}s for {key} is: {value}. "
    question = f"\nThe special magic {kind} for {key} mentioned in the text is:"
    room = _room(length, needle + question)
    source = FILLER if number == 1 else haystack or FILLER
    filler = (source * (room // max(1, len(source)) + 1))[:room]
    place = round(depth * room)
    return Prompt(filler[:place] + needle + filler[place:] + question, value, length, depth)


def is_right(prompt: Prompt, generated: str) -> bool:
    """Whether the first number (or, for words, the first run of letters, digits and dashes) of the answer is the value."""
    pattern = r"\d+" if prompt.answer.isdigit() else r"[0-9a-f]+(?:-[0-9a-f]+)+"
    first = re.search(pattern, generated)
    return first is not None and first.group() == prompt.answer


def grid(
    lengths: Sequence[int], depths: Sequence[float], make: Callable[[int, float, int], Prompt], each: int, seed: int
) -> list[Prompt]:
    """`each` prompts of every length and depth."""
    prompts = []
    for length in lengths:
        for depth in depths:
            for repeat in range(each):
                prompts.append(make(length, depth, seed * 100_003 + repeat * 101 + round(depth * 10)))
    return prompts
