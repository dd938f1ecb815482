"""What is replayed and converted under the official names."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.registry.systems import Component, Config
from newdomain.model.burst import BurstClassifier, BurstConfig


def _build(config: Config) -> nn.Module:
    return BurstClassifier(BurstConfig(**config))


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"logits": module(inputs["windows"])}


components = {"BurstClassifier": Component(run=_run, build=_build, batch={"windows": 0, "logits": 0})}
