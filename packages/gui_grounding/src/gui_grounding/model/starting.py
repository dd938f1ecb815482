"""What training starts from: a small model with random weights, a plain Qwen2-VL to which a pointer head is added, or a model with one."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from core_attention.systems import load_strictly
from core_runtime.errors import UserError
from gui_grounding.model.answers import END, PAD, START
from gui_grounding.model.checkpoint import is_checkpoint, pixel_limits_of, read_json, read_tensors, system_message_of
from gui_grounding.model.folder import TOKENIZER, Loaded, Prepared, check_pixels, load_model
from gui_grounding.model.official import convert
from gui_grounding.model.patches import MAX_PIXELS, MIN_PIXELS
from gui_grounding.model.pointer import PointerConfig, PointerModel
from gui_grounding.model.tiny import TinySizes, tiny_model
from gui_grounding.model.tokens import ADDED_TOKENS, ANSWERS, SYSTEM_MESSAGE, Tokens, add_pointer_tokens


def small_start(texts: Iterable[str], sizes: TinySizes, *, system_message: str, suppress: bool, seed: int) -> Loaded:
    """A small model with random weights, whose tokenizer knows the words of the training set and of the prompt."""
    frame = [f"system\n{system_message}", "user\n", "assistant", "os\n", *ANSWERS.values()]
    # the frame stands in every prompt, so its words must not be the rare ones
    network, tokens = tiny_model([*texts, *frame * 100], sizes=sizes, seed=seed, suppress=suppress)
    return Loaded(network, tokens, Prepared(system_message=system_message), {"start": "random weights"})


def start_from(base: str, *, suppress: bool, seed: int) -> Loaded:
    """A base folder, ready to learn: one with a pointer head as it is, a plain Qwen2-VL or Qwen2.5-VL with a fresh head.

    Raises:
        UserError: it is neither, or does not load strictly.
    """
    folder = Path(base)
    if folder.is_dir() and is_checkpoint(folder) and "pointer_pad_token_id" not in read_json(folder / "config.json"):
        try:
            loaded = _with_fresh_head(folder, suppress=suppress, seed=seed)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"--base {base}: {error}", "expected a folder of Qwen2-VL or Qwen2.5-VL") from None
        return loaded
    loaded = load_model(base)
    loaded.network.config = replace(loaded.network.config, suppress=suppress)
    return loaded


def _with_fresh_head(folder: Path, *, suppress: bool, seed: int) -> Loaded:
    """A plain backbone with the five tokens and a pointer head; new embedding rows are the mean of the old ones."""
    config = read_json(folder / "config.json")
    tokens = add_pointer_tokens(Tokenizer.from_file(str(folder / TOKENIZER)))
    official = read_tensors(folder)
    state = convert(official, config)
    if official:
        raise ValueError(f"tensors without a place: {', '.join(sorted(official)[:3])}")
    added = [tokens.id(token) for token in ADDED_TOKENS]
    for name in ("backbone.model.language_model.embed_tokens.weight", "backbone.lm_head.weight"):
        if name in state:
            state[name] = _with_rows(state[name], tokens, added)
    rows = len(state["backbone.model.language_model.embed_tokens.weight"])
    sizes = config.get("text_config", config)
    sizes["vocab_size"] = rows
    pointer = PointerConfig(
        backbone=config,
        pointer_start=tokens.id(START),
        pointer_pad=tokens.id(PAD),
        pointer_end=tokens.id(END),
        suppress=suppress,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PointerModel(pointer)
    dtype = state["backbone.model.language_model.embed_tokens.weight"].dtype
    network = network.to(dtype)
    fresh = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("head.")}
    load_strictly(network, state | fresh)
    least, most = pixel_limits_of(folder)
    check_pixels(least or MIN_PIXELS, most or MAX_PIXELS, str(folder))
    prepared = Prepared(
        system_message=system_message_of(folder) or SYSTEM_MESSAGE,
        min_pixels=least or MIN_PIXELS,
        max_pixels=min(most or MAX_PIXELS, MAX_PIXELS),
        scoring="max" if suppress else "mean",
    )
    return Loaded(network, tokens, prepared, {"start": folder.name})


def _with_rows(weight: torch.Tensor, tokens: Tokens, added: list[int]) -> torch.Tensor:
    """Embeddings with a row for every token; those of the added ones are the mean of the rows before them."""
    first = min(added)
    mean = weight[:first].float().mean(0, keepdim=True).to(weight.dtype)
    missing = max(0, tokens.size - len(weight))
    weight = torch.cat([weight, mean.expand(missing, -1)])
    weight[added] = mean
    return weight
