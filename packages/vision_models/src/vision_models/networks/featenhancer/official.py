"""khurramHashmi/FeatEnHancer: written from the paper's description; the keys are the published ones. In detectors they stand under ``feat_enhancer.``."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from core_attention.systems import Component, Config
from vision_models.networks.featenhancer.network import FeatEnHancer
from vision_models.networks.layouts import Layout


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The enhancer alone, and inside a published detector."""
    return (
        Layout(name="official", rename=str),
        Layout(name="detector", rename=str, prefix="feat_enhancer."),
    )


def _build(config: Config) -> FeatEnHancer:
    return FeatEnHancer(config.get("in_channels", 3))


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


components = {"FeatEnHancer": Component(run=_run, build=_build, batch={"x": 0, "y": 0})}
