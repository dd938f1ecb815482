"""Which rule each layer gets: the composites of layer-wise relevance propagation."""

from __future__ import annotations

from dataclasses import dataclass

from explainability.salient_relevance.rules import Rule

STABLE = Rule("epsilon", epsilon=1e-6)


@dataclass(frozen=True)
class Composite:
    """Which rule for which layer.

    Attributes:
        name: of the composite.
        convolution: of convolutions.
        linear: of linear layers.
        first: of the first layer, which sees pixels; None: as the others of its kind.
    """

    name: str
    convolution: Rule
    linear: Rule
    first: Rule | None = None


COMPOSITES = {
    "epsilon-plus-flat": Composite("epsilon-plus-flat", Rule("z+"), Rule("epsilon", epsilon=1e-6), Rule("flat")),
    "epsilon-alpha2-beta1": Composite(
        "epsilon-alpha2-beta1", Rule("alpha-beta", alpha=2.0), Rule("epsilon", epsilon=1e-6)
    ),
    "salient-relevance": Composite("salient-relevance", Rule("z"), Rule("z+")),
    "epsilon": Composite("epsilon", Rule("epsilon", epsilon=1e-6), Rule("epsilon", epsilon=1e-6)),
}
