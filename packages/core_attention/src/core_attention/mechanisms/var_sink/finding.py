"""Which residual dimensions give sinks away on a model: those in which its first token is massive, layer after layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.mechanisms.var_sink.pretrained import language_model_of
from core_attention.mechanisms.var_sink.sinks import EPSILON, TAU


@dataclass(frozen=True)
class Evidence:
    """One dimension.

    Attributes:
        dim: of the residual stream.
        ratio: median over prompts and layers of |x_d| / rms at the first token.
        layers: share of (prompt, layer) pairs in which the ratio exceeds τ.
        prompts: share of prompts in which it does so in at least half of the layers: how stable it is.
    """

    dim: int
    ratio: float
    layers: float
    prompts: float


@dataclass(frozen=True)
class SinkDims:
    """What was found on a model.

    Attributes:
        dims: the sink dimensions, the most massive first; none where no dimension is massive.
        evidence: of these and of the next most massive ones, for comparison.
        tau: the threshold.
        prompts, first_layer, last_layer: what was looked at.
    """

    dims: tuple[int, ...]
    evidence: tuple[Evidence, ...]
    tau: float
    prompts: int
    first_layer: int
    last_layer: int


@torch.no_grad()
def first_token_ratios(model: nn.Module, prompt: Mapping[str, Any], first_layer: int) -> Tensor:
    """|x| / rms of each sample's first token at the entrance of each layer.

    Returns:
        ratios, (samples, layers, width), float32.
    """
    layers: Any = language_model_of(model).layers
    mask = prompt.get("attention_mask")
    ratios: list[Tensor] = []

    def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        places = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        if isinstance(mask, Tensor):  # behind the padding
            places = mask.to(hidden.device).long().argmax(1)
        token = hidden[torch.arange(len(hidden), device=hidden.device), places].float()
        ratios.append(token.abs() / (token.square().mean(-1, keepdim=True) + EPSILON).sqrt())

    with ExitStack() as cleanup:
        for layer in layers[first_layer:]:
            cleanup.callback(layer.register_forward_pre_hook(see, with_kwargs=True).remove)
        model(**prompt)
    return torch.stack(ratios, 1).cpu()


def find_sink_dims(
    model: nn.Module,
    prompts: Sequence[Mapping[str, Any]],
    *,
    tau: float = TAU,
    first_layer: int = 2,
    most: int = 8,
    stable: float = 0.5,
) -> SinkDims:
    """Finds the dimensions in which the first token (the canonical sink) is massive on this model.

    Args:
        model: a language model or multimodal model of transformers.
        prompts: inputs of its forward, several and different: their samples are the evidence.
        tau: threshold of |x_d| / rms.
        first_layer: massive activations appear after the first two layers.
        most: dimensions in the evidence, at most.
        stable: share of prompts that a dimension must be massive in.

    Raises:
        ValueError: no prompt, or a model with too few layers.
    """
    count = len(language_model_of(model).layers)
    if not prompts or count <= first_layer:
        raise ValueError(
            f"find_sink_dims needs prompts and more than {first_layer} layers, got {len(prompts)} and {count}"
        )
    ratios = torch.cat([first_token_ratios(model, prompt, first_layer) for prompt in prompts])
    massive = ratios > tau
    by_layer = massive.float().mean((0, 1))
    by_prompt = (massive.float().mean(1) >= 0.5).float().mean(0)
    medians = ratios.flatten(0, 1).median(0).values
    order = medians.argsort(descending=True)
    dims = tuple(int(d) for d in order if by_prompt[d] >= stable)
    shown = sorted({*dims, *order[:most].tolist()}, key=lambda d: -float(medians[d]))
    evidence = tuple(Evidence(d, float(medians[d]), float(by_layer[d]), float(by_prompt[d])) for d in shown)
    return SinkDims(dims, evidence, tau, len(ratios), first_layer, count - 1)
