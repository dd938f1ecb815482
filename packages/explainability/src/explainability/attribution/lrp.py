"""Layer-wise relevance propagation as an explainer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from explainability.attribution.attribution import Attribution
from explainability.attribution.composites import COMPOSITES, Composite
from explainability.attribution.relevance import RelevanceMode, Step
from explainability.attribution.targets import Target, classes_of, logits_of, select, unwrapped


@dataclass
class LRP:
    """Layer-wise relevance propagation.

    Args:
        model: in evaluation mode; any that is made of operations with rules.
        composite: which rules, by name or a `Composite`.
    """

    model: nn.Module
    composite: str | Composite = "epsilon-plus-flat"
    steps: list[Step] = field(default_factory=list, init=False)

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """Relevance of every input value, (batch, channels, height, width).

        Args:
            inputs: normalised images.
            target: class, one per sample, tuple index or callable; None: the predicted class.
            internal_batch_size: samples at a time; None: all.

        Raises:
            ValueError: an operation without a rule; it is named.
        """
        composite = self.composite
        if isinstance(composite, str):
            if composite not in COMPOSITES:
                raise ValueError(f"composite is one of {', '.join(COMPOSITES)}, got {composite!r}")
            composite = COMPOSITES[composite]
        model = unwrapped(self.model)
        if model.training:
            raise ValueError("relevance needs a model in evaluation mode: call model.eval() first")
        parts, classes, start = [], [], 0.0
        step = internal_batch_size or len(inputs)
        self.steps = []
        with torch.inference_mode(False), torch.enable_grad():
            for first in range(0, len(inputs), step):
                x = inputs[first : first + step].detach().clone().requires_grad_()
                of_part = target[first : first + step] if isinstance(target, Tensor) and target.ndim else target
                mode = RelevanceMode(model, composite)
                frozen = [p for p in model.parameters() if p.requires_grad]
                for parameter in frozen:
                    parameter.requires_grad_(False)
                try:
                    with mode:
                        logits = logits_of(model(x))
                    explained = classes_of(logits, of_part)
                    selected = select(logits, of_part, explained)
                    # the relevance of the chosen logits starts as their values
                    (relevance,) = torch.autograd.grad(selected, x, selected.detach())
                finally:
                    for parameter in frozen:
                        parameter.requires_grad_(True)
                parts.append(relevance.detach())
                classes.append(explained.detach())
                start += float(selected.detach().sum())
                self.steps = mode.steps
        values = torch.cat(parts)
        meta = {"composite": composite.name, "explained": start, "relevance": float(values.sum())}
        return Attribution(values, tuple(inputs.shape), torch.cat(classes), "lrp", meta)

    def describe(self) -> list[tuple[str, str, str, float, float]]:
        """Of the last call, in the order of the forward pass: module, operation, rule, relevance of the output, relevance passed on."""
        return [(s.module, s.operation, s.rule, s.relevance_out, s.relevance_in) for s in self.steps]
