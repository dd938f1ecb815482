"""The network of sentence attention blocks under its published name, khoshsirat/embedding-attention-blocks."""

from __future__ import annotations

from core_attention.systems import Component, Config, StateDict
from vision_language.model.grounding_network import GroundingConfig, GroundingNetwork

# of the published backbone, efficientnet_pytorch; not part of the network
_REMOVED = ("backbone._conv_head", "backbone._bn1.", "backbone._fc")


def build(config: Config) -> GroundingNetwork:
    return GroundingNetwork(
        GroundingConfig(
            backbone=config.get("backbone"),
            channels=tuple(config.get("n_channels", ())),
            sentence_dim=config.get("encode_dim", 384),
            classes=config.get("n_classes", 1),
            dropout=config.get("dropout", 0.5),
        )
    )


def convert(official: StateDict, config: Config) -> StateDict:
    """Our state dict: the backbone's tensors stand in the same order in efficientnet_pytorch and in timm."""
    ours = {}
    trunk = [key for key in official if key.startswith("backbone.")]
    if any(key.startswith("backbone._") for key in trunk):
        used = []
        for key in trunk:
            tensor = official.pop(key)
            if not key.startswith(_REMOVED):
                used.append(tensor)
        names = [key for key in build(config).state_dict() if key.startswith("backbone.")]
        ours |= dict(zip(names, used, strict=True))
    for key in list(official):
        ours[key] = official.pop(key)
    return ours


def run(module, inputs, *, config, mode):
    image = inputs["image"]
    normed = module.init_norm(image)
    if module.backbone is None:
        features = [inputs[f"feature_{level}"] for level in range(len(module.channels))]
    else:
        features = module.backbone(normed)
    logits = module.decode(features, inputs["text"], image.shape[-2:])
    return {"normed_image": normed, "logits": logits}


_BATCH = {"image": 0, "text": 0, "normed_image": 0, "logits": 0}
_BATCH |= {f"feature_{level}": 0 for level in range(5)}

components = {"Model": Component(run=run, build=build, convert=convert, batch=_BATCH)}
