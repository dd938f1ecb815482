"""Prompts for RefAM: the sentence, magnets behind it, and what each text token is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core_attention.mechanisms.refam.heatmap import TextTokens
from core_runtime.errors import UserError

MAGNETS = ("the", "of", "with", ".", "and", "pink")
# English function words, from general knowledge of the language; another list may be given
_FUNCTION_WORDS = """
a an the this that these those of in on at by to from with without and or but nor as is are was were be been being am do does
did has have had it its he she they them his her their there here which who whom whose what where when how why i you we me my
your our for into onto over under up down out off than then so if not no very just
"""
STOP = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Prompt:
    """What the text encoder is given.

    Attributes:
        text: the sentence and its magnets.
        tokens: what each text token is, positions counted from the first of this encoder.
        magnets: those that fitted.
        notes: what the user should know.
    """

    text: str
    tokens: TextTokens
    magnets: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make_prompt(
    sentence: str,
    tokenizer: Any,
    *,
    longest: int,
    magnets: Sequence[str] = MAGNETS,
    stop: frozenset[str] = STOP,
    first: int = 0,
) -> Prompt:
    """The prompt of a sentence; where it would be too long, magnets go first.

    Args:
        sentence: what is to be found.
        tokenizer: a fast one of transformers, which knows where its tokens stand in the text.
        longest: tokens that the encoder takes, special ones included.
        magnets: words that attract surplus attention; those in the sentence are not added.
        stop: words that are filtered out.
        first: positions of other encoders' tokens before this one's.

    Raises:
        UserError: a sentence of stop words alone, or one that is too long even without magnets.
    """
    there = {word.lower() for word, _ in _words(sentence)}
    appended = [magnet for magnet in magnets if magnet.lower() not in there]
    while True:
        text = " ".join([sentence.strip(), *appended])
        encoded = tokenizer(text, return_offsets_mapping=True)
        if len(encoded["input_ids"]) <= longest:
            break
        if not appended:
            raise UserError(
                f"the sentence has {len(encoded['input_ids'])} tokens, the text encoder takes {longest}",
                "say it more shortly",
            )
        appended.pop()
    notes = ()
    missing = len([m for m in magnets if m.lower() not in there]) - len(appended)
    if missing:
        notes = (f"{missing} magnets were left out: the prompt fills the text encoder",)
    return Prompt(
        text, _tokens(sentence, text, encoded["offset_mapping"], stop, longest, first), tuple(appended), notes
    )


def _words(sentence: str) -> list[tuple[str, tuple[int, int]]]:
    """Words, and each other sign by itself, with where they stand."""
    return [(match.group(), match.span()) for match in re.finditer(r"\w+|[^\w\s]", sentence)]


def _tokens(
    sentence: str, text: str, offsets: Sequence[tuple[int, int]], stop: frozenset[str], longest: int, first: int
) -> TextTokens:
    end = len(sentence.strip())
    start = len(sentence) - len(sentence.lstrip())
    words = [(word, (a - start, b - start)) for word, (a, b) in _words(sentence)]
    groups: list[list[int]] = [[] for _ in words]
    magnets, special = [], []
    for place, (a, b) in enumerate(offsets):
        if a == b:  # begin, end, padding
            special.append(first + place)
        elif a >= end:
            magnets.append(first + place)
        else:
            for number, (_, (left, right)) in enumerate(words):
                if max(a, left) < min(b, right):  # a token may hold the space before its word
                    groups[number].append(first + place)
                    break
            else:
                special.append(first + place)
    special += range(first + len(offsets), first + longest)  # padding
    places, names, stopped = [], [], []
    for (word, _), positions in zip(words, groups, strict=True):
        if word.lower() in stop or not re.search(r"\w", word):
            stopped += positions
        elif positions:
            places.append(tuple(positions))
            names.append(word)
    if not places:
        raise UserError(f"{sentence!r} holds only stop words", "say what is to be found, as in 'the red circle'")
    return TextTokens(tuple(places), tuple(names), tuple(stopped), tuple(magnets), tuple(special))
