"""Low-rank fine-tuning of MVPFormer: W + (alpha / rank) B A on the query map and the value half of `c_attn`; only these and the head learn."""

import dataclasses

import torch
from torch import nn

from core_attention.mechanisms.mvpformer.mvpa import LoRALinear
from core_attention.systems import load_strictly
from ieeg.model.mvpformer import MVPFormer


def with_lora(model: MVPFormer, *, rank: int = 8, alpha: float = 16.0, classes: int | None = None) -> MVPFormer:
    """A copy with fresh updates (which change nothing yet), and with a fresh head if `classes` differs from the model's.

    Args:
        rank: 0: none.
        classes: of the head; None keeps the head.

    Raises:
        ValueError: the model has LoRA already: merge it first.
    """
    if model.config.lora_rank:
        raise ValueError("the model has LoRA already: merge it first")
    wanted = model.config.classes if classes is None else classes
    config = dataclasses.replace(model.config, lora_rank=rank, lora_alpha=alpha, classes=wanted)
    made = MVPFormer(config).to(model.head.weight.dtype)
    state = dict(model.state_dict())
    if wanted != model.config.classes:
        del state["head.weight"]
    fresh = {k: v for k, v in made.state_dict().items() if "lora_" in k or k not in state}
    load_strictly(made, {**fresh, **state})
    return made.train(model.training)


def merged(model: MVPFormer) -> MVPFormer:
    """A copy whose weights hold the updates; its outputs are the same."""
    made = MVPFormer(dataclasses.replace(model.config, lora_rank=0)).to(model.head.weight.dtype)
    state = {k: v for k, v in model.state_dict().items() if "lora_" not in k}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoRALinear):
                state[f"{name}.weight"] = module.merged()
    load_strictly(made, state)
    return made.train(model.training)


def freeze_base(model: MVPFormer) -> list[nn.Parameter]:
    """Leaves only LoRA and the head to learn, and returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("head."))
    return [p for p in model.parameters() if p.requires_grad]
