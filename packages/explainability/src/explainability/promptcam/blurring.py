"""Which heads of a class prompt matter: heads are blurred one after another, the least missed first.

A blurred head of class c attends to all N tokens alike, in the last block and in the row of c alone: its output there is the mean of its
values. So nothing else of the forward pass changes, and all H (H + 1) / 2 trials of the greedy ranking together cost one small batch of
single tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core_attention import attention
from explainability.promptcam.model import PromptCAM
from explainability.vit.backbone import attention_weights, blocks_of, project_queries


@dataclass(frozen=True)
class ClassRow:
    """One class's row of the last block, for one image.

    Attributes:
        prompt: the class's prompt as it enters the block, (1, 1, width of the model).
        sharp: outputs of its heads, (heads, width).
        blurred: outputs of its heads when they attend to all tokens alike.
        logits: of all classes, nothing blurred.
        target: the class.
    """

    prompt: Tensor
    sharp: Tensor
    blurred: Tensor
    logits: Tensor
    target: int


@dataclass(frozen=True)
class Ranking:
    """Heads in the order in which they were blurred.

    Attributes:
        order: the least important head first; `reversed` is the ranking of traits.
        probabilities: of the class after each step.
        initial: of the class before the first.
    """

    order: list[int]
    probabilities: list[float]
    initial: float

    def most_important(self, k: int) -> list[int]:
        """The k heads that stay sharp longest, the most important first."""
        return self.order[::-1][:k]


def blurred_logits(
    model: PromptCAM, image: Float[Tensor, "b 3 height width"], heads: list[int], target: int
) -> Float[Tensor, "b classes"]:
    """Logits with these heads of one class's row attending to all tokens alike; those of other classes are as they were."""
    if not 0 <= target < model.classes:
        raise ValueError(f"class {target} of a model of {model.classes} classes")
    prompts, x = model.enter_last(image)
    block = blocks_of(model.backbone)[-1]
    k, v = model.last_keys_values(prompts, x)
    q = project_queries(block.attn, block.norm1(prompts)).expand(x.shape[0], -1, -1, -1)
    outputs = attention(q, k, v).clone()
    outputs[:, heads, target] = v.mean(2)[:, heads]
    return model.score(prompts, outputs)


def blurred_attention(
    model: PromptCAM, image: Float[Tensor, "b 3 height width"], heads: list[int], target: int
) -> Float[Tensor, "b heads n n"]:
    """All weights of the last block with these heads of one class's row blurred."""
    weights = model.last_attention(image).clone()
    weights[:, heads, target] = 1 / weights.shape[-1]
    return weights


@torch.no_grad()
def class_row(model: PromptCAM, image: Float[Tensor, "1 3 height width"], target: int) -> ClassRow:
    """What the trials of one image need, from one forward pass.

    Raises:
        ValueError: more than one image, or no such class.
    """
    if image.shape[0] != 1:
        raise ValueError(f"heads are ranked for one image at a time, got {image.shape[0]}")
    if not 0 <= target < model.classes:
        raise ValueError(f"class {target} of a model of {model.classes} classes")
    prompts, x = model.enter_last(image)
    block = blocks_of(model.backbone)[-1]
    k, v = model.last_keys_values(prompts, x)
    q = project_queries(block.attn, block.norm1(prompts))
    outputs = attention_weights(q, k) @ v
    logits = model.score(prompts, outputs)[0]
    return ClassRow(prompts[:, target : target + 1], outputs[0, :, target], v[0].mean(1), logits, target)


@torch.no_grad()
def probabilities(model: PromptCAM, row: ClassRow, sets: list[list[int]]) -> Float[Tensor, " sets"]:
    """Probability of the class with each set of heads blurred, as one batch of single tokens."""
    outputs = row.sharp.repeat(len(sets), 1, 1)
    for number, heads in enumerate(sets):
        outputs[number, heads] = row.blurred[heads]
    prompt = row.prompt.expand(len(sets), -1, -1)
    logits = row.logits.repeat(len(sets), 1)
    logits[:, row.target] = model.score(prompt, outputs[:, :, None])[:, 0]
    return logits.softmax(-1)[:, row.target]


def rank_heads(model: PromptCAM, image: Float[Tensor, "1 3 height width"], target: int) -> Ranking:
    """Greedy ranking: each step blurs the head without which the class keeps the greatest probability (ties: the lowest).

    Args:
        model: in evaluation mode.
        image: one image.
        target: class whose prompt is examined.

    Raises:
        ValueError: more than one image, no such class, or a model in training mode (its dropout would blur the ranking).
    """
    if model.training:
        raise ValueError("heads are ranked in evaluation mode: call model.eval() first")
    row = class_row(model, image, target)
    left = list(range(len(row.sharp)))
    order: list[int] = []
    after: list[float] = []
    initial = float(row.logits.softmax(-1)[target])
    while left:
        trials = probabilities(model, row, [[*order, head] for head in left]).tolist()
        best = max(range(len(left)), key=lambda number: trials[number])  # the first of equals
        after.append(trials[best])
        order.append(left.pop(best))
    return Ranking(order, after, initial)
