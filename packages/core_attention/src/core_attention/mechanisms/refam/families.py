"""Diffusion transformers whose joint attention can be read: which layers are joint, and in which order their tokens stand."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn


@dataclass(frozen=True)
class Family:
    """One architecture of diffusers.

    Attributes:
        name: as users say it.
        joint: patterns of the names of attention layers over text and picture together.
        image_first: whether picture tokens come before text tokens.
        per_sample: whether attention is called once per sample, with the valid text tokens only.
        chosen: share of each kind of layers that is used, from the last: by default all that see text and picture as two streams,
            and the deeper half of those that see one.
    """

    name: str
    joint: tuple[str, ...]
    image_first: bool
    per_sample: bool = False
    chosen: tuple[float, ...] = (1.0,)

    def layers(self, model: nn.Module) -> list[list[str]]:
        """Names of the joint layers in the order in which they run, for each pattern."""
        by_kind: list[list[str]] = [[] for _ in self.joint]
        for name, _ in model.named_modules():
            for place, pattern in enumerate(self.joint):
                if fnmatchcase(name, pattern):
                    by_kind[place].append(name)
        return by_kind

    def default_layers(self, model: nn.Module) -> list[str]:
        """The layers used where the user names none."""
        names: list[str] = []
        for kind, share in zip(self.layers(model), self.chosen, strict=True):
            first = len(kind) - round(len(kind) * share)
            names += kind[first:]
        return names


# by the class of the transformer; a new family is one line here
FAMILIES = {
    "FluxTransformer2DModel": Family(
        "FLUX",
        ("transformer_blocks.*.attn", "single_transformer_blocks.*.attn"),
        image_first=False,
        chosen=(1.0, 0.5),
    ),
    "SD3Transformer2DModel": Family("SD3", ("transformer_blocks.*.attn",), image_first=True),
    "MochiTransformer3DModel": Family("Mochi", ("transformer_blocks.*.attn1",), image_first=True, per_sample=True),
}


def family_of(model: nn.Module) -> Family:
    """The family of a diffusion transformer.

    Raises:
        ValueError: none is known; names those that are.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    raise ValueError(f"refam: {type(model).__name__} is not one of the known transformers: {', '.join(FAMILIES)}")


def split(family: Family, tokens: int, image: int) -> tuple[slice, slice]:
    """Positions of the picture tokens and of the text tokens in a joint sequence."""
    if family.image_first:
        return slice(0, image), slice(image, tokens)
    return slice(tokens - image, tokens), slice(0, tokens - image)
