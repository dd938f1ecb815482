"""HazyResearch/fly: src/models/vit/t2t_vit.py; yitu-opensource/T2T-ViT, whose checkpoints it loads."""

from collections.abc import Collection, Mapping
from typing import Any

from core_attention.mechanisms.scatterbrain.attention import ScatterbrainAttention
from core_attention.systems import Component, Config
from core_attention.systems import system as system_of
from vision_models.networks.layouts import Layout
from vision_models.networks.scatterbrain.network import SPLITS, T2TViT


def _t2t(key: str) -> str:
    return key.replace("patch_embed.", "tokens_to_token.").replace("pos_embed.pe", "pos_embed")


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The layout of fly, which is ours, and that of the T2T-ViT release."""
    return (
        Layout(name="official", rename=str),
        Layout(name="t2t", rename=_t2t, lacks=lambda key: key.endswith("projection_matrix")),
    )


def _approximation(options: Mapping[str, Any] | None, width: int) -> ScatterbrainAttention | None:
    """One of the attentions that core registers, by the name of its class, with the temperature of the block around it."""
    if options is None:
        return None
    name = options["_target_"].rpartition(".")[2]
    component = system_of("scatterbrain").components.get(name)
    if component is None or component.build is None:
        raise ValueError(f"T2T-ViT takes SBLocalAttention or SBSmyrfAttention, got {name}")
    module = component.build({"softmax_temp": width**-0.5} | dict(options))
    assert isinstance(module, ScatterbrainAttention)
    return module


def _build(config: Config) -> T2TViT:
    names = (
        "img_size",
        "num_classes",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "qk_scale",
        "token_dim",
        "in_chans",
        "drop_path_rate",
    )
    channels, token_dim = config.get("in_chans", 3), config.get("token_dim", 64)
    widths = (channels * SPLITS[0][0] ** 2, token_dim * SPLITS[1][0] ** 2)
    approximations = []
    for name, width in zip(("t2tattn1", "t2tattn2"), widths, strict=True):
        approximations.append(_approximation(config.get(name), width))
    return T2TViT(**{name: config[name] for name in names if name in config}, approximations=approximations)


def _run(module: T2TViT, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    embedded = []
    handle = module.patch_embed.register_forward_hook(lambda _, arguments, out: embedded.append(out[0]))
    logits = module(inputs["x"])
    handle.remove()
    return {"logits": logits, "patch_embed": embedded[0]}


components = {
    "T2T_ViT": Component(
        run=_run,
        build=_build,
        batch={"x": 0, "logits": 0, "patch_embed": 0},
    )
}
