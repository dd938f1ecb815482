"""Position and channel attention of the multi-scale self-guided network (Sinha and Dolz 2020), sinAshish/Multi-Scale-Attention."""

from __future__ import annotations

from core_attention.mechanisms.msdual.dual import CAM, PAM, PAMCAMLayer
from core_attention.registry.systems import Component, Config


def build_layer(config: Config) -> PAMCAMLayer:
    return PAMCAMLayer(config["in_ch"], use_pam=config.get("use_pam", True))


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


BATCH = {"x": 0, "y": 0}


components = {
    "PAM_Module": Component(run=run, build=lambda config: PAM(config["in_dim"]), batch=BATCH),
    "CAM_Module": Component(run=run, build=lambda config: CAM(config["in_dim"]), batch=BATCH),
    "PAM_CAM_Layer": Component(run=run, build=build_layer, batch=BATCH),
}
