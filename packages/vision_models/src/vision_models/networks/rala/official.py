"""qhfan/RALA: classfication/RALA.py, and the backbones of its detection and segmentation trees."""

from collections.abc import Collection, Mapping
from typing import Any

from core_attention.systems import Component, Config
from vision_models.networks.layouts import Layout, converted_by
from vision_models.networks.rala.network import RAVLT


def _official(key: str) -> str:
    return key.replace("output_norms.", "extra_norms.")


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, and that of detectors and segmenters, under ``backbone.``."""
    return (
        Layout(name="official", rename=_official),
        Layout(name="detector", rename=_official, prefix="backbone."),
    )


def _build(config: Config, dense: bool = False) -> RAVLT:
    names = (
        "in_chans",
        "num_classes",
        "embed_dims",
        "depths",
        "num_heads",
        "mlp_ratios",
        "drop_path_rate",
        "projection",
    )
    scaled = config.get("layerscales", [False] * 4)
    starts = config.get("layer_init_values", [1.0] * 4)
    return RAVLT(
        **{name: config[name] for name in names if name in config},
        flags=config.get("flagss"),
        layer_scales=[start if there else None for there, start in zip(scaled, starts, strict=True)],
        dense=dense,
    )


def _build_dense(config: Config) -> RAVLT:
    return _build(config, dense=True)


def _run(module: RAVLT, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    halved = []  # the published first stage ends with the step to the next one
    last = module.layers[0].get_submodule("downsample")
    handle = last.register_forward_hook(lambda _, arguments, out: halved.append(out))
    out = module.forward_features(inputs["x"])
    handle.remove()
    pooled = module.forward_head(out, pre_logits=True)
    logits = module.head(pooled[:, :, None, None]).flatten(1)
    return {"logits": logits, "pooled": pooled, "stage0_out": halved[0], "stage3_out": out}


def _run_dense(module: RAVLT, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {f"c{index}": out for index, out in enumerate(module(inputs["x"]), start=2)}


_PUBLISHED = ("logits", "pooled", "stage0_out", "stage3_out")


components = {
    "RAVLT": Component(
        run=_run,
        build=_build,
        batch={"x": 0} | dict.fromkeys(_PUBLISHED, 0),
    ),
    "RAVLT_dense": Component(
        run=_run_dense,
        build=_build_dense,
        convert=converted_by(_build_dense, layouts, "official"),
        batch={"x": 0} | {f"c{index}": 0 for index in range(2, 6)},
    ),
}
