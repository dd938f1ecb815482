"""Text as token ids: the prompt around a screenshot and an instruction, built piece by piece, so that no instruction can speak for the user.

What a user writes is always encoded as plain text: ``<|im_end|>`` inside an instruction is nine characters, not the end of the turn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer

from gui_grounding.model.answers import END, PAD, POINTER, START

RECIPIENT, DIFF = "<|recipient|>", "<|diff_marker|>"
TURN, TURN_END, VISION, VISION_END, IMAGE = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
VIDEO, TEXT_END = "<|video_pad|>", "<|endoftext|>"
QWEN_TOKENS = (TEXT_END, TURN, TURN_END, VISION, VISION_END, IMAGE, VIDEO)
ADDED_TOKENS = (RECIPIENT, DIFF, START, END, PAD)  # in the published order
SYSTEM_MESSAGE = (
    "You are a GUI agent. You are given a screenshot and an instruction. Find the element that the instruction means and answer with "
    "one pyautogui action, with pointer tokens in place of its position."
)
Action = Literal["click", "drag"]
ANSWERS: dict[Action, str] = {"click": f"pyautogui.click({POINTER})", "drag": f"pyautogui.dragTo({POINTER}, {POINTER})"}


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question.

    Attributes:
        shared: system message and screenshot: the same for every instruction on one screen.
        question: instruction, and where it is given the answer up to its last pointer token.
    """

    shared: Sequence[int]
    question: Sequence[int]

    @property
    def ids(self) -> list[int]:
        return [*self.shared, *self.question]


class Tokens:
    """A tokenizer with the pointer tokens.

    Args:
        tokenizer: of Qwen2-VL or Qwen2.5-VL with `ADDED_TOKENS`, or a small one of `make_tokenizer`.

    Raises:
        ValueError: a special token is missing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        missing = [token for token in (*QWEN_TOKENS, *ADDED_TOKENS) if tokenizer.token_to_id(token) is None]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}")

    def id(self, token: str) -> int:
        """Of a special token."""
        number = self.tokenizer.token_to_id(token)
        assert number is not None
        return number

    def plain(self, text: str) -> list[int]:
        """Text as it is: names of special tokens in it are letters."""
        self.tokenizer.encode_special_tokens = True
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def trusted(self, text: str) -> list[int]:
        """Text of ours, in which special tokens mean what they say."""
        self.tokenizer.encode_special_tokens = False
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, system: str, cells: int, instruction: str, *, answer: str | None = None) -> Prompt:
        """System message, screenshot, instruction, and the beginning of the assistant's turn.

        Args:
            system: the message that the model was trained with.
            cells: of the screenshot: so many image tokens.
            instruction: what the user wants.
            answer: text of the assistant so far, as `ANSWERS` holds it; None: it is to be generated.
        """
        line = self.plain("\n")
        shared = [self.id(TURN), *self.plain(f"system\n{system}"), self.id(TURN_END), *line]
        shared += [
            self.id(TURN),
            *self.plain("user\n"),
            self.id(VISION),
            *[self.id(IMAGE)] * cells,
            self.id(VISION_END),
        ]
        question = [*self.plain(instruction), self.id(TURN_END), *line, self.id(TURN)]
        question += [*self.plain("assistant"), self.id(RECIPIENT)]
        # the text of the answer follows "os" and the line break without a special token between, so they are encoded together
        question += self.trusted(f"os\n{answer or ''}")
        return Prompt(shared, question)

    def example(self, system: str, cells: int, instruction: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a whole training conversation, and how many at its beginning the model is not asked for, with those it is.

        Returns:
            The ids, and for each 1 where the language model learns it: the assistant's text without ``<|pointer_end|>``, which is
            forced at inference.
        """
        prompt = self.prompt(system, cells, instruction)
        reply = [*self.trusted(answer), self.id(DIFF), *self.plain("\n")]
        begin = len(self.plain("os\n")) + 1  # with <|recipient|>
        ids = [*prompt.ids, *reply]
        learned = [0] * (len(prompt.ids) - begin) + [1] * (begin + len(reply))
        learned = [int(flag and number != self.id(END)) for flag, number in zip(learned, ids, strict=True)]
        return ids, learned

    def decode(self, ids: Sequence[int]) -> str:
        """Text with the names of special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        self.tokenizer.save(str(path))

    @property
    def size(self) -> int:
        """How many token ids there are."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def make_tokenizer(texts: Iterable[str], *, words: int = 400) -> Tokens:
    """A small byte-level tokenizer that knows the words of these texts; any other text is spelled in bytes.

    Args:
        texts: to learn words from, in an order that does not depend on chance.
        words: tokens beyond the 256 bytes, at most.
    """
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + words, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*QWEN_TOKENS, *ADDED_TOKENS)])
    return Tokens(tokenizer)


def add_pointer_tokens(tokenizer: Tokenizer) -> Tokens:
    """A plain Qwen tokenizer with the five tokens that a pointer head needs, in the published order."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ADDED_TOKENS])
    return Tokens(tokenizer)
