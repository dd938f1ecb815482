"""A model with its tokenizer: text in, its continuation out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core_runtime.errors import UserError
from core_runtime.terminal import warn
from language_models.model.causal import SuiteForCausalLM
from language_models.model.folder import Loaded, quiet_transformers
from language_models.texts.tokens import Tokenizer


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Attributes:
        new_tokens: at most so many.
        temperature: 0 takes the most probable one; higher draws more freely.
        top_k: draws among so many most probable ones; 0: all.
        beams: paths of a beam search; 1: none.
        seed: of the draws.
        beyond: go on past the positions that whole attention was trained with.
    """

    new_tokens: int = 100
    temperature: float = 0.0
    top_k: int = 0
    beams: int = 1
    seed: int = 0
    beyond: bool = False


def tokenizer_for(loaded: Loaded, given: Tokenizer | None) -> Tokenizer:
    """The model's own tokenizer, or the one that was given.

    Raises:
        UserError: there is none, or it has more ids than the model.
    """
    tokenizer = given or loaded.tokenizer
    if tokenizer is None:
        raise UserError("the model folder has no tokenizer", "--tokenizer names bytes or a tokenizer.json")
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    if tokenizer.text_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer.text_size} ids, the model {rows}",
            "give the tokenizer that the model was trained with",
        )
    return tokenizer


def encode_prompt(loaded: Loaded, tokenizer: Tokenizer, prompt: str, new_tokens: int, beyond: bool = False) -> Tensor:
    """Ids of a prompt, (1, tokens); an empty one begins with the end of text.

    Raises:
        UserError: prompt and answer together are longer than the model can read, or (without `beyond`) than it has learned to.
    """
    ids = torch.from_numpy(tokenizer.encode(prompt).astype("int64"))
    if not len(ids):
        ids = torch.tensor([tokenizer.end])
    kinds = getattr(loaded.model.config, "kinds", None) or ()
    if {"rnd", "fixedseq"} & set(kinds) and len(ids) + new_tokens > loaded.model.config.fixed_length:
        raise UserError(
            f"{len(ids)} tokens of prompt and {new_tokens} new ones reach beyond the model's fixed stream of {loaded.model.config.fixed_length}",
            "shorten the prompt or --new-tokens",
        )
    check_positions(loaded.model, len(ids), new_tokens, beyond)
    return ids[None]


def check_positions(model: SuiteForCausalLM, prompt: int, new_tokens: int, beyond: bool) -> None:
    """What becomes of positions that training has never shown.

    A mechanism whose tokens see a bounded stretch, or a memory, is made to go on; whole attention is not, and answers with noise.

    Raises:
        UserError: whole attention, and `beyond` is False.
    """
    trained = model.config.max_position_embeddings
    if prompt + new_tokens <= trained or reads_any_length(model):
        return
    message = (
        f"{prompt} tokens of prompt and {new_tokens} new ones go beyond the {trained} that the model was trained with"
    )
    if beyond:
        warn(message)
        return
    room = trained - prompt
    advice = f"--new-tokens {room} fits" if room > 0 else f"shorten the prompt to less than {trained} tokens"
    raise UserError(message, f"{advice}; --beyond goes on all the same")


def reads_any_length(model: SuiteForCausalLM) -> bool:
    """Whether the mechanism is made for texts longer than those it was trained on."""
    config = model.config
    if config.model_type == "plain-llama":
        return config.attention == "sliding"
    return config.model_type in (
        "landmark-llama",
        "landmark-gpt",
        "suite-doge",
        "titans",
        "titans-lr",
        "scatterbrain-lm",
    )


@torch.inference_mode()
def continue_text(loaded: Loaded, tokenizer: Tokenizer, prompt: str, decoding: Decoding) -> str:
    """The continuation of a prompt."""
    ids = encode_prompt(loaded, tokenizer, prompt, decoding.new_tokens, decoding.beyond)
    device = next(loaded.model.parameters()).device
    options = {"max_new_tokens": decoding.new_tokens, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
    if decoding.temperature > 0:
        torch.manual_seed(decoding.seed)
        options |= {"do_sample": True, "temperature": decoding.temperature, "top_k": decoding.top_k}
    else:
        options |= {"do_sample": False}
    mask = torch.ones_like(ids)
    with quiet_transformers():
        out = loaded.model.generate(ids.to(device), attention_mask=mask.to(device), num_beams=decoding.beams, **options)
    return tokenizer.decode(out[0, ids.shape[1] :].tolist())


@torch.inference_mode()
def stream_text(loaded: Loaded, tokenizer: Tokenizer, prompt: str, decoding: Decoding) -> Iterator[str]:
    """The same piece by piece, as soon as a piece is text; without beams."""
    ids = encode_prompt(loaded, tokenizer, prompt, decoding.new_tokens, decoding.beyond).to(
        next(loaded.model.parameters()).device
    )
    generator = torch.Generator().manual_seed(decoding.seed)
    cache, given, shown = loaded.model.new_cache(), [], ""
    for _ in range(decoding.new_tokens):
        logits = loaded.model(ids, cache=cache, logits_to_keep=1).logits[0, -1].float().cpu()
        token = choose(logits, decoding, generator)
        if token == tokenizer.end:
            break
        given.append(token)
        text = tokenizer.decode(given)
        if not text.endswith("\ufffd"):  # a character whose bytes are not all there yet
            yield text[len(shown) :]
            shown = text
        ids = torch.tensor([[token]], device=ids.device)
    rest = tokenizer.decode(given)[len(shown) :]
    if rest:
        yield rest


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """The next token."""
    if decoding.temperature <= 0:
        return int(logits.argmax())
    logits = logits / decoding.temperature
    if decoding.top_k:
        least = logits.topk(min(decoding.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
