"""Checkpoints of other programs, strictly, and both ways where the other format exists: transformers' Doge, LLaMA and Qwen2, the published
landmark models and their weight difference, titans-pytorch. And a dense checkpoint turned into one with a mechanism (`patch`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core_attention.checkpoints.files import read_official
from core_attention.registry.systems import Component, load_strictly
from core_runtime.errors import UserError
from language_models.model.causal import SuiteForCausalLM
from language_models.model.deconstructed import DeconstructedForCausalLM
from language_models.model.doge import DogeForCausalLM
from language_models.model.landmark import LandmarkConfig, LandmarkForCausalLM
from language_models.model.moh import MoHConfig, MoHForCausalLM
from language_models.model.plain import PlainConfig, PlainForCausalLM, twin_config
from language_models.model.registration import MODELS

StateDict = dict[str, Tensor]
FOREIGN = ("doge", "llama", "qwen2", "llama_with_landmark")
SUM_TOLERANCE = 1e-4  # of a published checksum, relative: sums of 7 billion numbers in half precision


def read_weights(path: Path) -> StateDict:
    """A state dict of a file, or of all shards of a folder.

    Raises:
        UserError: nothing readable is there, or two shards hold the same name.
    """
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{path} holds no weights", "expected *.safetensors or pytorch_model*.bin")
    state: StateDict = {}
    for file in files:
        try:
            part = read_official(file)
        except (OSError, ValueError) as error:
            raise UserError(str(error), "expected a state dict: safetensors or a torch file of tensors") from None
        twice = state.keys() & part.keys()
        if twice:
            raise UserError(
                f"{file.name} holds {sorted(twice)[0]} again, another shard has it",
                "keep the shards of one model in the folder",
            )
        state |= part
    return state


def from_transformers(folder: Path, config: Mapping[str, Any]) -> SuiteForCausalLM:
    """The model of a folder of transformers' Doge, LLaMA or Qwen2, or of the published landmark LLaMA.

    Raises:
        UserError: an option that our model does not have, or weights that do not fit.
    """
    model_type = config["model_type"]
    try:
        if model_type == "doge":
            from language_models.model.declarations import dma

            return _loaded(dma.components["DogeForCausalLM"], config, folder)
        if model_type == "llama_with_landmark":
            from language_models.model.declarations import landmark

            return _loaded(landmark.components["LlamaForCausalLM"], config, folder)
        return _dense(folder, config)
    except ValueError as error:  # an unusable option, a state dict that does not fit
        raise UserError(f"{folder}: {error}", "see docs/language-models.md for what can be read") from None


# a published state without a config.json of transformers: a key that only it has → (module of official/, component)
PUBLISHED_STATES = {
    "token_emb.weight": ("titans", "MemoryAsContextTransformer"),
    "transformer.wte.weight": ("landmark", "GPTBase"),
}


def from_arguments(file: Path, arguments: Path) -> SuiteForCausalLM:
    """The model of a published state dict and the arguments of its constructor: titans-pytorch, or the landmark paper's small model.

    Args:
        file: the checkpoint: safetensors, or a torch file of tensors.
        arguments: a JSON object of the published constructor's arguments.

    Raises:
        UserError: a state of another program, arguments that cannot be read, or weights that do not fit them.
    """
    from importlib import import_module

    state = read_weights(file)
    held = [place for key, place in PUBLISHED_STATES.items() if key in state]
    if not held:
        raise UserError(
            f"{file} is a state of neither titans-pytorch nor the landmark paper's small model",
            "folders of transformers need no --arguments",
        )
    try:
        config = json.loads(arguments.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{arguments} cannot be read: {error}", "write the constructor's arguments as JSON") from None
    if not isinstance(config, dict):
        raise UserError(f"{arguments} is not a JSON object", "write the constructor's arguments as JSON")
    module, name = held[0]
    component = import_module(f"language_models.model.official.{module}").components[name]
    try:
        model: Any = component.load(config, state)
    except KeyError as error:
        raise UserError(f"{arguments} has no {error}", "write all arguments that the model was made with") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {error}", "give the arguments that the model was made with") from None
    return model


def _loaded(component: Component, config: Mapping[str, Any], source: Path) -> Any:
    return component.load(dict(config), read_weights(source))


def _dense(folder: Path, config: Mapping[str, Any]) -> PlainForCausalLM:
    if config.get("hidden_act", "silu") != "silu" or config.get("mlp_bias"):
        raise ValueError(f"feed-forward parts other than SwiGLU without biases, got {config.get('hidden_act')!r}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rotary positions of type {rope['rope_type']!r}; only the default is held here")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if head_dim * config["num_attention_heads"] != config["hidden_size"]:
        raise ValueError(f"heads of {head_dim} channels that do not make up the width of {config['hidden_size']}")
    qwen = config["model_type"] == "qwen2"
    if config.get("attention_bias") and not qwen:
        raise ValueError("LLaMA with attention_bias, which also biases the output projection")
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "rope_theta"),
        *("rope_parameters", "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range"),
    )
    given = {name: config[name] for name in names if config.get(name) is not None}
    if qwen and config.get("use_sliding_window") and config.get("sliding_window"):
        raise ValueError("Qwen2 with use_sliding_window, whose upper layers alone slide")
    model = PlainForCausalLM(PlainConfig(attention_bias=qwen, **given))
    state = read_weights(folder)
    for key in [key for key in state if key.endswith("rotary_emb.inv_freq")]:
        del state[key]
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    model = model.to(next(iter(state.values())).dtype)
    load_strictly(model, state)
    return model


def to_transformers(model: SuiteForCausalLM) -> Any:
    """transformers' own model with the same weights: Doge, LLaMA, or Qwen2.

    Raises:
        UserError: the mechanism does not exist there.
    """
    import transformers

    config = model.config
    if isinstance(model, DogeForCausalLM):
        if config.bias_form != "exp" or (config.is_moe and config.router != "transformers"):
            raise UserError(
                "transformers' Doge has exponential importance and its own router",
                "this model cannot be written as one",
            )
        names = transformers.DogeConfig().to_dict().keys() - {"model_type", "transformers_version", "architectures"}
        theirs = transformers.DogeConfig(
            **{name: getattr(config, name) for name in names if hasattr(config, name) and name != "rope_parameters"},
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
        other = transformers.DogeForCausalLM(theirs)
    elif isinstance(model, (PlainForCausalLM, DeconstructedForCausalLM)):
        kinds = getattr(config, "kinds", None) or [getattr(config, "attention", "standard")]
        if set(kinds) != {"standard"}:
            raise UserError(
                f"transformers has no model with {', '.join(sorted(set(kinds)))} layers",
                "only Standard models can be written as one",
            )
        other = transformers.AutoModelForCausalLM.from_config(twin_config(config))
    else:
        raise UserError(f"transformers has no {config.model_type}", "Doge and Standard models can be written as one")
    load_strictly(other, dict(model.state_dict()))
    return other.to(dtype=model.dtype)  # pyright: ignore[reportCallIssue]


def recover_landmark(raw: Path, difference: Path, *, checksum: float | None = None) -> LandmarkForCausalLM:
    """The landmark LLaMA of LLaMA's own weights and the published difference: tuned = raw + difference.

    Embeddings of the raw model grow by rows that are the mean of its own, as when the difference was made.

    Args:
        checksum: the sum of all recovered numbers, as published.

    Raises:
        UserError: tensors that do not fit, or another sum.
    """
    base, change = read_weights(raw), read_weights(difference)
    config = json.loads((difference / "config.json").read_text(encoding="utf-8"))
    base = {key: value for key, value in base.items() if not key.endswith("inv_freq")}
    change = {key: value for key, value in change.items() if not key.endswith("inv_freq")}
    if base.keys() != change.keys():
        odd = sorted(base.keys() ^ change.keys())
        raise UserError(
            f"{raw} and {difference} differ in {len(odd)} tensors, such as {odd[0]}",
            "give the model that the difference was made from",
        )
    tuned: StateDict = {}
    for key, value in change.items():
        own = base[key]
        if own.shape != value.shape:
            own = grown(own, len(value)) if key in ("model.embed_tokens.weight", "lm_head.weight") else own
        if own.shape != value.shape:
            raise UserError(
                f"{key} is {list(own.shape)} in {raw} and {list(value.shape)} in {difference}",
                "give the model that the difference was made from",
            )
        tuned[key] = own.to(value.dtype) + value
    total = sum(float(value.double().sum()) for value in tuned.values())
    if checksum is not None and abs(total - checksum) > SUM_TOLERANCE * abs(checksum):
        raise UserError(
            f"the recovered weights sum to {total:.4f}, expected {checksum:.4f}",
            "one of the two folders is damaged or of another version",
        )
    from language_models.model.declarations import landmark

    return landmark.components["LlamaForCausalLM"].load(config, tuned)  # pyright: ignore[reportReturnType]


def grown(table: Tensor, rows: int) -> Tensor:
    """An embedding with more rows, each the mean of the old ones."""
    if rows <= len(table):
        return table
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


@dataclass(frozen=True)
class Patched:
    """A model with a mechanism, and what of it must be learned.

    Attributes:
        new: parameters that the dense model does not have.
        retrain: one sentence.
    """

    model: SuiteForCausalLM
    new: Sequence[str]
    retrain: str


def patch(model: SuiteForCausalLM, to: str, *, window: int = 512) -> Patched:
    """A dense (Standard) model with a mechanism in every layer; weights that both have are kept.

    Args:
        to: ``landmark``, ``moh``, ``dma`` or ``moba``.
        window: tokens that dma keeps, of a block of moba and of landmark.

    Raises:
        UserError: the model is not dense, or has biases that the mechanism has no place for.
    """
    if not isinstance(model, PlainForCausalLM) or model.config.attention != "standard":
        raise UserError(
            f"a {model.config.model_type} model is not dense", "patch takes Standard LLaMA and Qwen2 models"
        )
    config = model.config
    if config.attention_bias and to in ("landmark", "moh", "dma"):
        raise UserError(f"Qwen2's biases have no place in {to}", "patch a LLaMA model, or --to moba")
    base = {name: getattr(config, name) for name in SHARED}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if to == "moba":
        base |= {"attention": "moba", "window": window, "attention_bias": config.attention_bias}
        other: SuiteForCausalLM = PlainForCausalLM(PlainConfig(**base))
        retrain = f"no parameter is new; up to {3 * window} tokens it is the dense model, beyond that a short fine-tuning helps the choice of blocks"
    elif to == "moh":
        other = MoHForCausalLM(MoHConfig(**base))
        retrain = "no parameter is new, but a quarter of the heads is silent for every token: continue the training"
    elif to == "landmark":
        mem_id = config.vocab_size
        base |= {"vocab_size": mem_id + 1, "mem_id": mem_id, "mem_freq": max(window - 1, 1)}
        base["train_context_length"] = max(config.max_position_embeddings, 8 * window)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in state:
                state[name] = grown(state[name], mem_id + 1)
        other = LandmarkForCausalLM(LandmarkConfig(**base))
        retrain = (
            f"the landmark (id {mem_id}) is the mean of all rows: train with landmarks before any retrieval is of use"
        )
    elif to == "dma":
        other = DogeForCausalLM(MODELS["suite-doge"].config_class(**base, keep_window_size=window))
        retrain = (
            "queries and keys are now normalised per head, and every key is equally important (A = 0): train everything"
        )
    else:
        raise UserError(f"{to!r} is none of landmark, moh, dma, moba", "choose one of them")
    other = other.to(model.dtype)
    missing, unexpected = other.load_state_dict(state, strict=False)
    new = [name for name in missing if name != "lm_head.weight" or not config.tie_word_embeddings]
    allowed = ("A", "dt_proj.weight", "q_norm.weight", "k_norm.weight", "input_residual", "post_attention_residual")
    unknown = [name for name in (*unexpected, *new) if not name.endswith(allowed)]
    if unknown:
        raise UserError(f"{unknown[0]} does not fit {to}", "the dense model is not of LLaMA's shape")
    return Patched(other.eval(), new, retrain)


SHARED = (
    *(
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    *("max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "initializer_range"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)
