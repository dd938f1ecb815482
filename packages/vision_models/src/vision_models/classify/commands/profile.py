"""``vision-models classify profile``."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Names


@dataclass(frozen=True)
class Profiles(Outcome):
    """What networks weigh and what one image takes.

    Attributes:
        rows: network, inserted attention, parameters, MACs, and what the attention adds to both.
    """

    rows: Sequence[dict[str, Any]]
    size: int

    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "networks": list(self.rows)}

    def lines(self) -> Iterable[str]:
        yield f"{'network':38} {'parameters':>12} {'MACs':>15}   of one {self.size} × {self.size} image"
        for row in self.rows:
            name = row["network"]
            if row["insert"]:
                name = f"  + {row['insert']}"
            yield f"{name:38} {row['parameters']:>12,} {row['macs']:>15,}"


def profile(
    networks: list[str],
    /,
    *,
    size: Annotated[int, AtLeast(8)] = 224,
    channels: Literal[1, 3] = 3,
    classes: Annotated[int, AtLeast(1)] = 1000,
    settings: Names | None = None,
    insert: Names | None = None,
    insert_at: str = "residual",
) -> Profiles:
    """Prints parameters and multiply-accumulates of networks, without and with an inserted attention.

    Example: vision-models classify profile resnet18 resnet50 --insert ela,se,cbam

    Args:
        networks: names of ours or of timm.
        size: side of the input in pixels.
        channels: of the input.
        classes: of the head.
        settings: of the network, name=value with commas between.
        insert: attentions to put in, one at a time.
        insert_at: where: residual, depthwise, or a pattern of module names.
    """
    import torch

    from core_attention.measuring.cost import profile as cost_of
    from vision_models.classify.model.classifier import Classifier, ClassifierConfig, check_network
    from vision_models.classify.model.options import NetworkOptions

    given = json.dumps(NetworkOptions(settings=settings).values())
    rows = []
    for name in networks:
        for attention in ("", *(insert or ())):
            config = ClassifierConfig(name, classes, channels, size, given, attention, insert_at)
            model = Classifier(config)
            check_network(model, config)
            cost = cost_of(model, torch.zeros(1, channels, size, size))
            rows.append(
                {"network": name, "insert": attention or None, "parameters": cost.parameters, "macs": cost.macs}
            )
    return Profiles(rows, size)
