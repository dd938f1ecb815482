"""The networks that this package trains: one class, so that a model folder says all about itself."""

from dataclasses import dataclass
from typing import Any, Literal

import timm
from torch import Tensor, nn

from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts
from explainability.promptcam.model import PromptCAM
from explainability.sat_wsol.model import SAT
from explainability.tcpa.model import TCPA
from explainability.vit.backbone import build_backbone

Kind = Literal["plain", "prompt-cam", "tcpa", "sat"]


@dataclass(frozen=True)
class NetworkConfig:
    """How a network is built.

    Attributes:
        classes: their names, in the order of the logits.
        kind: plain vision transformer, or a paper's.
        backbone: name in timm; empty: the sizes below.
        image_size: pixels a side.
        patch_size: pixels a side.
        width: channels of the tokens.
        depth: blocks.
        heads: attention heads.
        mean: of the normalisation.
        std: of the normalisation.
        prompts: prompts per pool (tcpa).
        taken: of them, how many a token takes (tcpa).
        fourier: transform prompts by Fourier (tcpa).
        dropout: of prompts in training (prompt-cam, tcpa).
    """

    classes: tuple[str, ...]
    kind: Kind = "plain"
    backbone: str = ""
    image_size: int = 64
    patch_size: int = 8
    width: int = 64
    depth: int = 3
    heads: int = 4
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    prompts: int = 8
    taken: int = 4
    fourier: bool = True
    dropout: float = 0.1


class Network(nn.Module):
    """What a model folder of this package holds; ``network.model`` is what is explained."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        classes = len(config.classes)
        backbone = _backbone(config)
        if config.kind == "prompt-cam":
            self.model: nn.Module = PromptCAM(backbone, classes, dropout=config.dropout)
        elif config.kind == "tcpa":
            prompts = TokenCoordinatedPrompts(
                len(backbone.blocks), backbone.embed_dim, cls_entries=config.prompts, image_entries=config.prompts,
                cls_k=config.taken, image_k=config.taken, use_fourier=config.fourier, dropout=config.dropout,
            )  # fmt: skip
            self.model = TCPA(backbone, classes, prompts)
        elif config.kind == "sat":
            self.model = SAT(backbone, classes)
        else:
            backbone.reset_classifier(classes)
            self.model = backbone

    def forward(self, image: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return self.model(image)


def _backbone(config: NetworkConfig) -> Any:
    if config.backbone:
        return timm.create_model(config.backbone, num_classes=0, img_size=config.image_size)
    sizes = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
    }
    return build_backbone(sizes)
