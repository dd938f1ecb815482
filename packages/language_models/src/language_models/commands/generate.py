"""``language-models generate``."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, Seed, Threads, options, resolve_device, use_threads


@options
class DecodingOptions:
    """How the next token is chosen.

    Attributes:
        new_tokens: at most so many.
        temperature: 0 takes the most probable token; higher draws more freely.
        top_k: draws among so many most probable tokens; 0: all.
        beams: paths of a beam search; 1: none.
        tokenizer: bytes or a tokenizer.json, where the model folder has none.
        beyond: go on past the positions that whole attention was trained with; other mechanisms are made for it.
    """

    new_tokens: Annotated[int, AtLeast(1)] = 100
    temperature: Annotated[float, AtLeast(0)] = 0.0
    top_k: Annotated[int, AtLeast(0)] = 0
    beams: Annotated[int, AtLeast(1)] = 1
    tokenizer: Path | None = None
    beyond: bool = False


@dataclass(frozen=True)
class Continuation(Outcome):
    """A prompt and how it goes on.

    Attributes:
        streamed: whether the text was shown while it was made.
    """

    prompt: str
    text: str
    streamed: bool = False

    def facts(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "text": self.text}

    def lines(self) -> Iterable[str]:
        if not self.streamed:
            yield self.prompt + self.text


def generate(
    prompt: str,
    /,
    *,
    model: Model = None,
    decoding: DecodingOptions = DecodingOptions(),
    stream: bool = False,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
) -> Continuation:
    """Continues a prompt.

    Example: language-models generate 'In the morning' --model run/model --new-tokens 200 --temperature 0.8

    Args:
        prompt: the text to go on from.
        stream: show the text while it is made.
    """
    from language_models.model.folder import load_model
    from language_models.model.inference import continue_text, stream_text, tokenizer_for
    from language_models.texts.tokens import read_tokenizer

    use_threads(threads)
    loaded = load_model(model, resolve_device(device))
    given = None if decoding.tokenizer is None else read_tokenizer(decoding.tokenizer)
    tokenizer, rules = tokenizer_for(loaded, given), decoding_of(decoding, seed)
    if not stream:
        return Continuation(prompt, continue_text(loaded, tokenizer, prompt, rules))
    if decoding.beams > 1:
        raise UserError("a beam search ends before its text is known", "leave out --stream or --beams")
    pieces = []
    sys.stdout.write(prompt)
    for piece in stream_text(loaded, tokenizer, prompt, rules):
        sys.stdout.write(piece)
        sys.stdout.flush()
        pieces.append(piece)
    sys.stdout.write("\n")
    return Continuation(prompt, "".join(pieces), streamed=True)


def decoding_of(options: DecodingOptions, seed: int) -> Any:
    """The options as the model's own room takes them."""
    from language_models.model.inference import Decoding

    if options.beams > 1 and options.temperature > 0:
        raise UserError("a beam search draws nothing", "give --beams or --temperature, not both")
    return Decoding(options.new_tokens, options.temperature, options.top_k, options.beams, seed, options.beyond)
