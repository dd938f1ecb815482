"""What a paper's family of networks is, as data: imports nothing heavy, so that `--help` and listings stay quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network of a family.

    Args:
        options: what its constructor is given.
        parameters: their number at `num_classes`, as published (the tests count them).
        num_classes: classes of the published head; 0 where it has none.
        input_size: channels, height and width of the pictures that it was made for.
        crop_pct: share of the shorter side that evaluation crops.
        first_conv: the layer that sees the picture, where it is not the family's.
    """

    options: Mapping[str, Any]
    parameters: int
    num_classes: int = 1000
    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    first_conv: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """The networks of one paper.

    Args:
        slug: of the paper, as in `core_attention.systems`.
        network: ``module:name`` of what builds one, called with the options of a variant.
        layouts: ``module:name`` of the published layouts of its checkpoints (`layouts.Layouts`).
        paper: its title.
        arxiv: its number there; None where it has none.
        repository: the authors' code, ``owner/name``.
        licence: of that code and its weights; "none" means that nothing of it may be reused.
        first_conv: the name of the layer that sees the picture.
        classifier: the name of the last layer.
        levels: how many feature maps ``features_only=True`` returns unless ``out_indices`` says which: the last ones.
        variants: by name, as `timm.create_model` takes it.
    """

    slug: str
    network: str
    layouts: str
    paper: str
    repository: str
    licence: str
    arxiv: str | None = None
    first_conv: str = ""
    classifier: str = "head"
    levels: int = 4
    variants: Mapping[str, Variant] = field(default_factory=dict)
