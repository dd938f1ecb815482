"""Our networks in timm's registry, under names that timm does not have itself.

`register_with_timm` is called by ``import vision_models``: at once where timm is loaded already, else as soon as something imports it, so that
neither timm nor torch is loaded before they are needed.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

from vision_models.networks.catalogue import BY_NAME, FAMILIES
from vision_models.networks.families import Family, Variant

if TYPE_CHECKING:
    from torch import nn


def register_with_timm() -> None:
    """Registers our networks with timm, now or when it is imported."""
    wrapt.register_post_import_hook(_register, "timm.models")


def build(name: str, **options: Any) -> "nn.Module":
    """One of our networks, or one of timm's.

    Raises:
        ValueError: no such network, with the names that come closest.
    """
    import timm

    if name in BY_NAME:
        return _entry_point(BY_NAME[name], name)(**options)
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name.split(".")[0]):
        return timm.create_model(name, **options)
    close = get_close_matches(name, sorted({*BY_NAME, *timm.list_models()}), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ValueError(f"there is no network {name!r}{hint}")


def _register(models: Any) -> None:
    from timm.models import generate_default_cfgs, is_model, register_model

    configs = {}
    for family in FAMILIES:
        for name, variant in family.variants.items():
            configs[name] = _pretrained_config(family, variant)
    # timm looks for the configurations in the module of the entry point
    globals()["default_cfgs"] = generate_default_cfgs(configs)
    for name, family in BY_NAME.items():
        if not is_model(name):  # a later timm may have the name: then it stays timm's
            register_model(_entry_point(family, name))


def _pretrained_config(family: Family, variant: Variant) -> dict[str, Any]:
    """What timm keeps beside a model: how pictures are prepared, where it comes from. No weights are published in its format."""
    return {
        "url": "",
        "num_classes": variant.num_classes,
        "input_size": variant.input_size,
        "crop_pct": variant.crop_pct,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": variant.first_conv or family.first_conv or None,
        "classifier": family.classifier,
        "license": family.licence,
        "paper_name": family.paper,
        "paper_ids": f"arXiv:{family.arxiv}" if family.arxiv else None,
        "origin_url": f"https://github.com/{family.repository}",
    }


def _entry_point(family: Family, name: str) -> "Callable[..., nn.Module]":
    """The function that timm calls for a name; the network's own code is imported then."""

    def entry_point(pretrained: bool = False, **options: Any) -> "nn.Module":
        from timm.models import build_model_with_cfg

        from vision_models.networks.layouts import read_checkpoint

        given = dict(family.variants[name].options) | options
        return build_model_with_cfg(
            named(family.network),
            name,
            pretrained,
            pretrained_filter_fn=partial(read_checkpoint, layouts=named(family.layouts)),
            feature_cfg={"out_indices": family.levels, "feature_cls": "getter"},
            **given,
        )

    entry_point.__name__ = entry_point.__qualname__ = name
    return entry_point


def named(place: str) -> Callable[..., Any]:
    """What ``module:name`` stands for."""
    module, name = place.split(":")
    return getattr(import_module(module), name)
