"""How much memory a model will need after N tokens: of the configuration alone, without running it."""

from __future__ import annotations

from itertools import pairwise

from language_models.model.configs import SuiteConfig
from language_models.model.deconstructed import DeconstructedConfig
from language_models.model.doge import DogeConfig
from language_models.model.landmark import LandmarkConfig
from language_models.model.plain import PlainConfig
from language_models.model.scatterbrain import ScatterbrainConfig
from language_models.model.titans import TitansConfig
from language_models.model.titans_lr import TitansLRConfig


def state_numbers(config: SuiteConfig, tokens: int) -> int:
    """Numbers that the caches of one sequence hold after `tokens` tokens; room that is kept free for later ones is not counted."""
    layers = config.num_hidden_layers
    if isinstance(config, DeconstructedConfig):
        return sum(_deconstructed(config, kind, tokens) for kind in config.kinds or ())
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * (config.num_key_value_heads or config.num_attention_heads) * head_dim  # a key and a value of every head
    if isinstance(config, LandmarkConfig):
        blocks = tokens // config.mem_freq
        if config.memory_blocks is not None:
            blocks = min(blocks, config.memory_blocks)
        landmarks = blocks * row // 2
        return layers * ((blocks + 1) * config.block * row + landmarks)
    if isinstance(config, DogeConfig):
        kv_heads = config.num_key_value_heads or 1
        return layers * min(tokens, config.keep_window_size) * (row + 3 * kv_heads)
    if isinstance(config, ScatterbrainConfig):
        heads = config.num_attention_heads
        features = config.features or int(head_dim * 3)
        return layers * heads * (2 * min(tokens, config.local_context // 2) * head_dim + features * (head_dim + 1))
    if isinstance(config, TitansConfig):
        return layers * _titans(config, tokens)
    if isinstance(config, TitansLRConfig):
        width = config.hidden_size
        memories = layers if config.neural_memory_layers is None else len(config.neural_memory_layers)
        window = 2 * config.num_attention_heads * config.head_dim * min(tokens, config.block)
        return layers * window + memories * 3 * 8 * width * width // config.num_attention_heads
    if isinstance(config, PlainConfig) and config.attention == "sliding":
        return layers * row * min(tokens, config.window - 1)
    sums = (
        layers * row // 2 * -(-tokens // config.window)
        if isinstance(config, PlainConfig) and config.attention == "moba"
        else 0
    )
    return layers * row * tokens + sums


def _titans(config: TitansConfig, tokens: int) -> int:
    heads = config.memory_heads or config.num_attention_heads
    width = config.hidden_size // heads
    inner = int(width * config.memory_expansion)
    widths = [width, *[inner] * (config.memory_depth - 1), width]
    weights = heads * sum(a * b for a, b in pairwise(widths))
    # memory, momentum, the memory at the chunk's start, and the rows of the running chunk
    state = 3 * weights + config.window * heads * sum(a + b for a, b in pairwise(widths))
    if config.variant == "lmm":
        return state
    attended = 2 * config.window if config.variant == "mac" else config.window
    return state + 2 * config.hidden_size * (min(tokens, attended) + config.num_persistent)


def _deconstructed(config: DeconstructedConfig, kind: str, tokens: int) -> int:
    width, heads = config.hidden_size, config.num_attention_heads
    head = width // heads
    if kind == "mlp":
        return 0
    if kind == "nonapprox":
        return width + heads
    if kind == "approx":
        if config.approx_form == "paper_recurrent":
            return heads * (2 * head + 1) * (head + 1)
        return heads * (1 + head + head * (head + 1) // 2) * (head + 1)
    if kind in ("rnd", "fixedseq"):
        return width * (tokens + config.fixed_length)
    return 2 * width * tokens


def peak_bytes(config: SuiteConfig, tokens: int, parameters: int, bytes_each: int = 4) -> int:
    """Weights and state together; what a chunk of the prompt needs on its way (tens of megabytes) is not counted."""
    return bytes_each * (parameters + state_numbers(config, tokens))
