"""Position and channel attention of the multi-scale self-guided network (Sinha and Dolz 2020), sinAshish/Multi-Scale-Attention."""

from __future__ import annotations

from core_attention.mechanisms.msdual.dual import CAM, PAM, PAMCAMLayer
from core_attention.registry.systems import Component, Config, Paper, System


def build_layer(config: Config) -> PAMCAMLayer:
    return PAMCAMLayer(config["in_ch"], use_pam=config.get("use_pam", True))


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


BATCH = {"x": 0, "y": 0}

system = System(
    "msdual",
    {
        "PAM_Module": Component(run=run, build=lambda config: PAM(config["in_dim"]), batch=BATCH),
        "CAM_Module": Component(run=run, build=lambda config: CAM(config["in_dim"]), batch=BATCH),
        "PAM_CAM_Layer": Component(run=run, build=build_layer, batch=BATCH),
    },
    paper=Paper(
        "Multi-scale Self-guided Attention for Medical Image Segmentation",
        2020,
        repository="sinAshish/Multi-Scale-Attention",
        licence="none",
        components=(
            "CAM_Module",
            "DAF_stack",
            "MultiConv",
            "PAM_CAM_Layer",
            "PAM_Module",
            "segmentation_metrics",
            "semanticModule",
        ),
    ),
    examples={
        "channel-attention": "core_attention.mechanisms.msdual.dual:channel_example",
        "position-attention": "core_attention.mechanisms.msdual.dual:position_example",
    },
    aliases={
        "CAM": "channel-attention",
        "CAM_Module": "channel-attention",
        "PAM": "position-attention",
        "PAM_Module": "position-attention",
    },
    page="position_channel_attention.md",
    inserts={
        "cam": "core_attention.mechanisms.msdual.dual:CAM",
        "pam": "core_attention.mechanisms.msdual.dual:PAM",
    },
)
