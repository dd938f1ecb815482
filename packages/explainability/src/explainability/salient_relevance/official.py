"""Salient relevance under its published names: golden cases of both stages."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.systems import Component, Config
from explainability.salient_relevance.relprop import relprop, render
from explainability.salient_relevance.saliency import SaliencyOptions, context_aware_saliency


def _build(config: Config) -> nn.Module:
    layers: list[nn.Module] = []
    for kind, *sizes in config["architecture"]:
        if kind == "conv":
            inputs, outputs, kernel, stride, padding = sizes
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding))
        elif kind == "linear":
            layers.append(nn.Linear(*sizes))
        elif kind == "maxpool":
            kernel, stride, padding = sizes
            layers.append(nn.MaxPool2d(kernel, stride, padding))
        elif kind in ("relu", "dropout", "flatten"):
            layers.append({"relu": nn.ReLU, "dropout": nn.Dropout, "flatten": nn.Flatten}[kind]())
        else:
            raise ValueError(f"no layer {kind!r}")
    return nn.Sequential(*layers)


def _run_relprop(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    # denominators may be near 0, so all is computed in float64
    logits = module(inputs["image"])
    layers = [_doubled(layer) for layer in module]
    image = inputs["image"].double()
    official = relprop(layers, image, pool_overlap="overwrite")
    accumulated = relprop(layers, image)
    first_linear = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    below = first_linear - 1  # the flatten before it
    return {
        "logits": logits,
        "predicted": official.target,
        "relevance": official.relevance.float(),
        "relevance_float64": official.relevance.float(),
        "relevance_accumulating_maxpool_float64": accumulated.relevance.float(),
        "relevance_after_classifier": official.before[max(below, 0)].float(),
        "relevance_sum": official.relevance.flatten(1).sum(1).float(),
        "heatmap_rgb_uint8": render(official.relevance).float(),
    }


def _doubled(layer: nn.Module) -> nn.Module:
    if not list(layer.parameters()):
        return layer
    copy = type(layer).__new__(type(layer))
    nn.Module.__init__(copy)
    copy.__dict__.update({name: value for name, value in layer.__dict__.items() if name != "_parameters"})
    for name, parameter in layer.named_parameters():
        copy.register_parameter(name, nn.Parameter(parameter.detach().double()))
    return copy


def _run_saliency(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    options = SaliencyOptions(
        patch=config.get("patch", 7),
        stride=config.get("stride", 3),
        k=config.get("K", 64),
        c=config.get("c", 3.0),
        scales=tuple(config.get("scales", SaliencyOptions.scales)),
        min_scale=config.get("min_scale", 0.2),
        foci_threshold=config.get("foci_threshold", 0.8),
    )
    saliency = context_aware_saliency(inputs["relevance_rgb"], options)
    return {
        "lab01": saliency.lab,
        "single_scale_saliency": saliency.single_scale,
        "saliency_norm": saliency.normalised,
        "sr_map": saliency.map,
    }


components = {
    "relprop": Component(run=_run_relprop, build=_build),
    "context_aware_saliency": Component(run=_run_saliency),
}
