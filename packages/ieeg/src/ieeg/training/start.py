"""The start of training: a fresh model of a size, or a model folder."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core_attention.systems import load_strictly
from core_runtime.errors import UserError
from ieeg.model.folder import LoadedModel, load_model
from ieeg.model.lora import merged, with_lora
from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig
from ieeg.recordings.settings import Montage, asked_for
from ieeg.training.recipe import FreshOptions, Recipe


def starting_model(model: str, recipe: Recipe, fresh: FreshOptions, montage: Montage) -> LoadedModel:
    """The model that training begins from, with its preparation of recordings.

    Args:
        model: a size in `SIZES`, or a model folder.

    Raises:
        UserError: neither, or options that a model folder determines.
    """
    if model not in SIZES:
        if "/" not in model and not Path(model).is_dir():
            raise UserError(f"{model!r} is neither a size ({', '.join(SIZES)}) nor a model folder")
        if fresh.rate or fresh.relative_index:
            raise UserError("--rate and --relative-index are for fresh models; this one has its own")
        loaded = load_model(model)
        if recipe.task == "pretrain" and loaded.detects:
            raise UserError(
                "a model with a seizure head cannot be pre-trained", "start from a generative model or a size"
            )
        preparing = {**(loaded.preparing or {}), **asked_for(montage)}
        return replace(loaded, window=fresh.window or loaded.window, preparing=preparing)
    changes: dict[str, Any] = {}
    if fresh.relative_index:
        changes["relative_index"] = fresh.relative_index
    network = MVPFormer(MVPFormerConfig(**{**SIZES[model], **changes}))
    rate, window = 512.0, 25  # the published ones
    if model == "tiny":
        rate, window = 128.0, 12
    return LoadedModel(network, fresh.rate or rate, fresh.window or window, 0.5, asked_for(montage))


def network_to_train(start: LoadedModel, recipe: Recipe) -> MVPFormer:
    """The model to train: head, LoRA and dropout according to the recipe."""
    base = start.network
    if base.config.lora_rank:  # earlier updates become part of the weights; new ones start afresh
        base = merged(base)
    classes = 2 if recipe.task == "detect" else 0
    rank = 0
    if recipe.task == "detect" and recipe.tune == "lora":
        rank = recipe.lora_rank
    tuned = with_lora(base, rank=rank, alpha=recipe.lora_alpha, classes=classes)
    rates = dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), recipe.dropout)
    # dropout belongs to the configuration: the weights move into a model built with the new rates
    config = MVPFormerConfig(**{**asdict(tuned.config), **rates, "structured_dropout": recipe.structured_dropout})
    network = MVPFormer(config)
    load_strictly(network, tuned.state_dict())
    return network
