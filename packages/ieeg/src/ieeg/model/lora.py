"""Low-rank fine-tuning of MVPFormer: W + (alpha / rank) B A on the query map and the value half of `c_attn`; only these and the head are trained."""

import dataclasses

import torch
from torch import nn

from core_attention.mechanisms.mvpformer.mvpa import LoRALinear
from core_attention.systems import load_strictly
from ieeg.model.mvpformer import MVPFormer


def with_lora(model: MVPFormer, *, rank: int = 8, alpha: float = 16.0, classes: int | None = None) -> MVPFormer:
    """A copy with fresh updates (which change nothing yet), and with a fresh head if `classes` differs from the model's.

    Args:
        rank: of the updates; 0: none.
        classes: of the head; None keeps the head.

    Raises:
        ValueError: the model has LoRA already: merge it first.
    """
    if model.config.lora_rank:
        raise ValueError("the model has LoRA already: merge it first")
    if classes is None:
        classes = model.config.classes
    config = dataclasses.replace(model.config, lora_rank=rank, lora_alpha=alpha, classes=classes)
    adapted = MVPFormer(config).to(model.head.weight.dtype)
    state = dict(model.state_dict())
    if classes != model.config.classes:
        del state["head.weight"]
    # Parameters that the model does not have stay as they were initialised.
    fresh = {key: tensor for key, tensor in adapted.state_dict().items() if "lora_" in key or key not in state}
    load_strictly(adapted, {**fresh, **state})
    return adapted.train(model.training)


def merged(model: MVPFormer) -> MVPFormer:
    """A copy whose weights hold the updates; its outputs are the same."""
    plain = MVPFormer(dataclasses.replace(model.config, lora_rank=0)).to(model.head.weight.dtype)
    state = {key: tensor for key, tensor in model.state_dict().items() if "lora_" not in key}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoRALinear):
                state[f"{name}.weight"] = module.merged()
    load_strictly(plain, state)
    return plain.train(model.training)


def freeze_base(model: MVPFormer) -> list[nn.Parameter]:
    """Leaves only LoRA and the head trainable, and returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("head."))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
