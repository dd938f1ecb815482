"""Every mechanism under one name and one parameter budget: what ``--kind`` and the arena know.

A kind is a function from common sizes to a configuration. `fitted` then moves the width of the feed-forward part until the parameters of all kinds
agree; the deconstructed ones agree exactly, by construction.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core_attention.mechanisms.landmark.memory import chunk_length
from core_runtime.errors import UserError
from core_runtime.tables import near_equal
from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.landmark import LandmarkConfig
from language_models.model.registration import MODELS

TOLERANCE = 0.005  # of the parameters


@dataclass(frozen=True)
class Sizes:
    """What all kinds of one comparison share.

    Attributes:
        vocab_size, hidden_size, layers, heads: of the decoder.
        inner: width of the feed-forward part of the Standard model.
        context: tokens of a training window.
        window: tokens that the local kinds see.
        landmark: id of the landmark.
        longest: tokens that a fixed stream must reach.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    inner: int
    context: int
    window: int
    landmark: int
    longest: int

    def common(self) -> dict[str, Any]:
        """The options of `SuiteConfig`."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            # 0.02 is meant for wide models: narrow ones then need thousands of steps before they look anything up
            "initializer_range": round(0.6 * self.hidden_size**-0.5, 4),
        }


Make = Callable[[Sizes], SuiteConfig]


def _config(model_type: str, sizes: Sizes, **options: Any) -> SuiteConfig:
    return MODELS[model_type].config_class(**{**sizes.common(), **options})


def _plain(attention: str, sizes: Sizes) -> SuiteConfig:
    window = sizes.window if attention == "sliding" else max(sizes.window // 2, 1)
    return _config("plain-llama", sizes, attention=attention, window=window, topk=3)


def _dma(sizes: Sizes) -> SuiteConfig:
    return _config("suite-doge", sizes, keep_window_size=sizes.window)


def _landmark(sizes: Sizes) -> SuiteConfig:
    block = max(sizes.context // 8, 2)
    return _config(
        "landmark-llama",
        sizes,
        mem_id=sizes.landmark,
        mem_freq=block - 1,
        cache_top_k=3,
        train_context_length=8 * block,
    )


def _scatterbrain(sizes: Sizes) -> SuiteConfig:
    return _config("scatterbrain-lm", sizes, local_context=2 * sizes.window, features=32)


def _moh(sizes: Sizes) -> SuiteConfig:
    return _config(
        "moh-llama",
        sizes,
        router="learned",
        rope_theta=10000.0,
        shared_heads=sizes.heads // 2,
        routed_heads=max(1, sizes.heads // 4),
    )


def _titans(variant: str, sizes: Sizes) -> SuiteConfig:
    return _config(
        "titans", sizes, variant=variant, window=sizes.window, memory_heads=1, memory_expansion=1.0, gated_output=False
    )


def _deconstructed(pattern: str, sizes: Sizes) -> SuiteConfig:
    return _config("deconstructed", sizes, pattern=pattern, fixed_length=sizes.longest)


def _pattern(pattern: str, sizes: Sizes) -> SuiteConfig:
    """A pattern that the user wrote.

    Raises:
        UserError: it cannot be read, or names layers that the model does not have.
    """
    try:
        return _deconstructed(pattern, sizes)
    except ValueError as error:
        raise UserError(
            str(error), f"this model has {sizes.layers} layers; write such as hybrid:even:nonapprox"
        ) from None


RELAXED = ("mlp", "approx", "nonapprox", "rnd", "fixedseq", "static")

KINDS: Mapping[str, Make] = {
    "standard": partial(_plain, "standard"),
    "sliding": partial(_plain, "sliding"),
    "moba": partial(_plain, "moba"),
    "dma": _dma,
    "landmark": _landmark,
    "scatterbrain": _scatterbrain,
    "moh": _moh,
    **{f"titans-{variant}": partial(_titans, variant) for variant in ("lmm", "mac", "mag", "mal")},
    "deconstructed-standard": partial(_deconstructed, "standard"),
    **{kind: partial(_deconstructed, kind) for kind in RELAXED},
    **{f"hybrid-{kind}": partial(_deconstructed, f"hybrid:even:{kind}") for kind in RELAXED},
}


def find_kind(name: str) -> Make:
    """The kind of this name, or of a user's file ``FILE.py`` (``FILE.py:NAME``), which defines ``config(sizes)`` and registers its model.

    Raises:
        UserError: no kind has the name, or the file is not as described in docs/add-to-the-arena.md.
    """
    if ".py" in name:
        return _from_file(name)
    if name.startswith("hybrid:") or name.startswith("uniform:"):
        return partial(_pattern, name)
    if name not in KINDS:
        near = [pair for pair in near_equal([name, *KINDS]) if name in pair]
        hint = f"known are {', '.join(KINDS)}, hybrid:PLACES:KIND, and FILE.py of your own"
        raise UserError(f"no kind is called {name!r}" + (f"; {near[0][-1]!r} is" if near else ""), hint)
    return KINDS[name]


def _from_file(name: str) -> Make:
    file = Path(name)
    if not file.is_file():
        raise UserError(f"{name} does not exist", "a kind of your own is a Python file that defines config(sizes)")
    spec = importlib.util.spec_from_file_location(f"language_models_kind_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's own code
        raise UserError(
            f"{name} cannot be imported: {type(error).__name__}: {error}", "run it with python to see where"
        ) from None
    if not callable(getattr(module, "config", None)):
        raise UserError(f"{name} defines no config(sizes)", "see docs/add-to-the-arena.md")
    return module.config


def sizes_for(parameters: int, *, vocab_size: int, context: int, landmark: int, longest: int = 0) -> Sizes:
    """Sizes of a Standard model of about so many parameters, in LLaMA's proportions; heads of 32 channels, fewer in narrow models.

    Raises:
        UserError: so few parameters that the embeddings leave none for the layers.
    """
    layers = 2 if parameters < 200_000 else 4 if parameters < 5_000_000 else 8
    best: tuple[int, int] | None = None
    for hidden in (16, 32, 48, *range(64, 4096, 32)):
        # attention 4 h², feed-forward 3 · (8/3) h² in each layer, two embeddings
        total = 12 * hidden * hidden * layers + 2 * vocab_size * hidden
        if best is None or abs(total - parameters) < abs(best[0] - parameters):
            best = (total, hidden)
        if total > 2 * parameters:
            break
    assert best is not None
    hidden = best[1]
    inner = round((parameters - 2 * vocab_size * hidden - 4 * hidden * hidden * layers) / (3 * hidden * layers))
    if inner < 8:
        raise UserError(f"{parameters} parameters are too few for a vocabulary of {vocab_size}", "give more --params")
    heads = max(2, min(hidden // 16, 4), hidden // 32)
    return Sizes(
        vocab_size, hidden, layers, heads, inner, context, max(context // 4, 4), landmark, max(longest, context)
    )


def count_parameters(config: SuiteConfig) -> int:
    """Parameters of the model of a configuration, without making it."""
    with torch.device("meta"):
        return sum(p.numel() for p in _model_class(config)(config).parameters())


def _model_class(config: SuiteConfig) -> type[SuiteForCausalLM]:
    from transformers import AutoModelForCausalLM

    if config.model_type in MODELS:
        return MODELS[config.model_type]
    users: Any = AutoModelForCausalLM._model_mapping[type(config)]  # registered by a user's file
    return users


def fitted(make: Make, sizes: Sizes, parameters: int) -> SuiteConfig:
    """The configuration of a kind whose parameters come closest to `parameters`, by the width of its feed-forward parts.

    Raises:
        UserError: the mechanism alone has more, the step of one channel is too coarse, or it does not fit the context (`check_context`).
    """
    config = make(sizes)
    check_context(config, sizes.context)
    if config.model_type == "deconstructed":
        return config  # the same blocks: equal exactly, to one another and to their Standard
    channel = 3 * sizes.hidden_size * sizes.layers
    config.intermediate_size += round((parameters - count_parameters(config)) / channel)
    if config.intermediate_size < 1:
        raise UserError(
            f"{config.model_type} leaves no feed-forward part within {parameters} parameters", "give more --params"
        )
    counted = count_parameters(config)
    if abs(counted - parameters) > TOLERANCE * parameters:
        raise UserError(
            f"{config.model_type} comes to {counted} parameters, not within {TOLERANCE:.1%} of {parameters}",
            "give more --params",
        )
    return config


REACH = ("window", "keep_window_size", "local_context", "segment_len")  # how far a token of a local kind sees


def check_context(config: SuiteConfig, context: int) -> None:
    """Whether a kind can be learned in windows of `context` tokens.

    Raises:
        UserError: its own window or block is longer, so that its mechanism would never be at work; its fixed stream is shorter; or landmarks
            leave no room for a chunk.
    """
    whole = config.model_type == "plain-llama" and getattr(config, "attention", None) == "standard"
    for name in REACH:
        reach = getattr(config, name, None)
        if reach is not None and reach > context and not whole:
            raise UserError(
                f"{config.model_type}: {name} is {reach}, longer than the context of {context} tokens, which it would see whole",
                f"give a {name} below {context}, or a longer --context",
            )
    fixed_length = getattr(config, "fixed_length", context)
    if {"rnd", "fixedseq"} & set(getattr(config, "kinds", None) or ()) and fixed_length < context:
        raise UserError(
            f"the fixed stream of {fixed_length} tokens is shorter than the context of {context}",
            f"give a fixed_length of {context} at least, or a shorter --context",
        )
    if isinstance(config, LandmarkConfig):
        try:
            chunk_length(config.train_context_length, config.block, config.cache_top_k)
        except ValueError as error:
            raise UserError(f"{config.model_type}: {error}", "mend cache_top_k or train_context_length") from None


def new_model(config: SuiteConfig, seed: int) -> SuiteForCausalLM:
    """A model with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _model_class(config)(config)
