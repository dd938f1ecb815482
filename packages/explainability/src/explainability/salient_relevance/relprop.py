"""Layer-wise relevance propagation through a network that is a sequence of layers, layer by layer, in reverse.

This is the paper's first stage as it was published. Networks that are not sequences are for `explainability.attribution.lrp`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from explainability.salient_relevance.rules import Layer, Rule, propagate, propagate_max_pool

# the published rules: the bias in the denominator, and a stabiliser without a sign
CONVOLUTION = Rule("z", plain_epsilon=True)
LINEAR = Rule("z+", plain_epsilon=True)
PASSING = (nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


@dataclass(frozen=True)
class Relevance:
    """What relevance propagation gives.

    Attributes:
        relevance: of the input, of its shape.
        logits: of the network.
        target: the class of each sample whose logit was shared out.
        before: relevance of the input of each layer, by its index.
    """

    relevance: Float[Tensor, "b ..."]
    logits: Float[Tensor, "b classes"]
    target: Tensor
    before: dict[int, Tensor]


@torch.no_grad()
def relprop(
    layers: Sequence[nn.Module],
    image: Float[Tensor, "b ..."],
    *,
    target: Tensor | None = None,
    convolution: Rule = CONVOLUTION,
    linear: Rule = LINEAR,
    pool_overlap: str = "accumulate",
) -> Relevance:
    """Relevance of the inputs for one logit of each sample.

    Args:
        layers: convolutions, linear layers, ReLU, max-pooling, dropout, flatten.
        image: input of the first.
        target: class of each sample; None: the predicted one.
        convolution: rule of convolutions.
        linear: rule of linear layers.
        pool_overlap: overlapping windows of a max-pooling with the same winner: ``"accumulate"`` or ``"overwrite"`` (as published).

    Raises:
        ValueError: a layer that is not among these, or another `pool_overlap`.
    """
    if pool_overlap not in ("accumulate", "overwrite"):
        raise ValueError(f"pool_overlap is 'accumulate' or 'overwrite', got {pool_overlap!r}")
    inputs, x = [], image
    for layer in layers:
        inputs.append(x)
        x = layer(x)
    logits = x
    explained = logits.argmax(1) if target is None else target
    one_hot = torch.zeros_like(logits).scatter(1, explained[:, None], 1)
    relevance = logits * one_hot
    before = {}
    for index in range(len(layers) - 1, -1, -1):
        layer, x = layers[index], inputs[index]
        if isinstance(layer, nn.Linear):
            relevance = propagate(layer, x, relevance, linear)
        elif isinstance(layer, Layer):
            relevance = propagate(layer, x, relevance, convolution)
        elif isinstance(layer, nn.MaxPool2d):
            relevance = propagate_max_pool(layer, x, relevance, overwrite=pool_overlap == "overwrite")
        elif isinstance(layer, PASSING):
            relevance = relevance.view_as(x)
        else:
            raise ValueError(f"layer {index}: no rule for {type(layer).__name__}")
        before[index] = relevance
    return Relevance(relevance, logits, explained, before)


def render(relevance: Float[Tensor, "b c height width"]) -> Float[Tensor, "b height width c"]:
    """Absolute relevance in 0 … 255, min-max over all channels of a sample at once, cut to whole numbers. Constant maps are 0."""
    magnitude = relevance.abs()
    low = magnitude.amin((1, 2, 3), keepdim=True)
    span = magnitude.amax((1, 2, 3), keepdim=True) - low
    scaled = torch.where(span > 0, (magnitude - low) / span.clamp(min=torch.finfo(span.dtype).tiny), 0 * magnitude)
    return (scaled * 255).floor().permute(0, 2, 3, 1)
