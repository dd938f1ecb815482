"""The papers' networks, by name: `names()`, `create(name, num_classes=…)`, and all of them behind `timm.create_model`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def names() -> list[str]:
    """The names of our networks, sorted; imports nothing heavy."""
    from vision_models.networks.catalogue import BY_NAME

    return sorted(BY_NAME)


def create(name: str, *, num_classes: int, in_chans: int = 3, **options: Any) -> "nn.Module":
    """A network with fresh weights: one of ours, or any that timm has.

    Args:
        name: of `names()`, or of `timm.list_models()`.
        num_classes: of the head; 0 leaves it out, so that the network returns pooled features.
        in_chans: channels of the pictures.
        options: what `timm.create_model` takes, such as ``drop_path_rate`` or ``features_only``.

    Raises:
        ValueError: neither we nor timm have such a network.
    """
    from vision_models.networks.registering import build

    return build(name, num_classes=num_classes, in_chans=in_chans, **options)
