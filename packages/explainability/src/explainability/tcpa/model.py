"""A frozen vision transformer whose tokens each attend to prompts of their own (Liu, Zou, Hua, Zhou, ICML 2025).

The attention stands in `core_attention.mechanisms.tcpa`; here are the network around it and what the published code can put before it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention import capture
from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts
from explainability.vit.backbone import add_attention, add_mlp, blocks_of, check_backbone, embed, grid_of


class Coordinated(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: (batch, classes).
        distance: sum of the layers' matching distances, a scalar; times its weight it joins the loss.
    """

    logits: Float[Tensor, "b classes"]
    distance: Float[Tensor, ""]


def simam(image: Float[Tensor, "b c height width"]) -> Float[Tensor, "b c height width"]:
    """SimAM without parameters: each value times the sigmoid of how far it stands out of its channel.

    ``x · σ(d / (4 (Σ d / (hw − 1) + 1e-3)) + 1/2)`` with ``d = (x − mean)²`` per channel.
    """
    deviation = (image - image.mean((2, 3), keepdim=True)).square()
    pixels = image.shape[2] * image.shape[3]
    variance = deviation.sum((2, 3), keepdim=True) / (pixels - 1)
    return image * torch.sigmoid(deviation / (4 * (variance + 1e-3)) + 0.5)


def image_prompter(hidden: int = 9, kernel: int = 11) -> nn.Sequential:
    """What IPrompt adds to an image: two wide convolutions with a PReLU between."""
    return nn.Sequential(
        nn.Conv2d(3, hidden, kernel, padding=kernel // 2),
        nn.PReLU(),
        nn.Conv2d(hidden, 3, kernel, padding=kernel // 2),
    )


class TCPA(nn.Module):
    """A backbone with token coordinated prompts. ``model(image)`` → logits (batch, classes).

    Args:
        backbone: a plain vision transformer of timm; frozen, and kept in evaluation mode while the prompts train.
        classes: number of classes.
        prompts: the prompts of all layers.
        image_prompt: add `image_prompter` of the image to it (IPrompt).
        use_simam: weigh the pixels by `simam` first.

    Raises:
        ValueError: the backbone has a part that is not known.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        prompts: TokenCoordinatedPrompts,
        *,
        image_prompt: bool = False,
        use_simam: bool = False,
    ):
        super().__init__()
        self.backbone = check_backbone(backbone)
        if not isinstance(blocks_of(self.backbone)[0].attn.q_norm, nn.Identity):
            raise ValueError("this backbone norms its queries and keys, which token coordinated prompts do not know")
        self.backbone.requires_grad_(False)
        self.prompts = prompts
        self.use_simam = use_simam
        self.prompter = image_prompter() if image_prompt else None
        self.head = nn.Linear(self.backbone.embed_dim, classes)

    def train(self, mode: bool = True):
        """Trains prompts and head; the backbone stays as in evaluation, as published."""
        super().train(mode)
        self.backbone.eval()
        return self

    def prepared(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 3 height width"]:
        """The image as the backbone sees it."""
        if self.use_simam:
            image = simam(image)
        if self.prompter is not None:
            image = image + self.prompter(image)
        return image

    def coordinate(self, image: Float[Tensor, "b 3 height width"], *, random: bool = False) -> Coordinated:
        """Logits and matching distance.

        Args:
            image: normalised images.
            random: entries are drawn instead of matched, as in the first epochs of training.
        """
        x = embed(self.backbone, self.prepared(image))
        distance = x.new_zeros(())
        for layer in range(len(blocks_of(self.backbone))):
            x, layer_distance = self._block(layer, x, random)
            distance = distance + layer_distance
        return Coordinated(self.head(self.backbone.norm(x)[:, 0]), distance)

    def _block(self, layer: int, x: Tensor, random: bool = False) -> tuple[Tensor, Tensor]:
        block = blocks_of(self.backbone)[layer]
        update, distance = self.prompts(layer, x, block.norm1, block.attn, random=random)
        return add_mlp(block, add_attention(block, x, update)), distance

    @torch.no_grad()
    def masks(self, image: Float[Tensor, "b 3 height width"]) -> list[Bool[Tensor, "b tokens prompts"]]:
        """Which prompts each token may use in each layer, those of CLS first."""
        x = embed(self.backbone, self.prepared(image))
        masks = []
        for layer in range(len(blocks_of(self.backbone))):
            masks.append(self.prompts.coordinate(layer, x)[0])
            x, _ = self._block(layer, x)
        return masks

    @torch.no_grad()
    def last_map(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b rows columns"]:
        """What CLS attends to among the patches in the last block, the mean over heads; prompts and registers left out."""
        grid = grid_of(self.backbone, image)
        with capture(self, rows=[0]) as maps:
            self(image)
        weights = maps[next(reversed(list(maps)))][:, :, 0].mean(1)
        # keys are the prompts, CLS and registers, patches
        return weights[:, -grid[0] * grid[1] :].unflatten(1, grid)

    def forward(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b classes"]:
        """Logits of the classes."""
        return self.coordinate(image).logits
