"""JJBOY/BMN-Boundary-Matching-Network: models.py, dataset.py, loss_function.py, post_processing.py; and the measures, also OpenTAD's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config
from vision_models.actions.metrics.precision import average_precision
from vision_models.actions.metrics.recall import average_recall
from vision_models.actions.model.bmn import BMN, BMNConfig
from vision_models.actions.model.loss import LossWeights, bmn_loss
from vision_models.actions.model.proposals import soft_nms
from vision_models.actions.model.targets import Targets, targets_of

# official constructor argument → ours
_SIZES = {
    "temporal_scale": "steps",
    "prop_boundary_ratio": "margin",
    "num_sample": "bins",
    "num_sample_perbin": "points",
    "feat_dim": "channels",
    "hidden_dim_1d": "hidden",
    "hidden_dim_2d": "map_2d",
    "hidden_dim_3d": "map_3d",
    "conv_groups": "groups",
}
# official prefix → ours
_NAMES = {
    "x_1d_b.0.": "base.0.",
    "x_1d_b.2.": "base.1.",
    "x_1d_s.": "start.",
    "x_1d_e.": "end.",
    "x_1d_p.0.": "narrow.",
    "x_3d_p.0.": "matching.",
    "x_2d_p.0.": "matching.mix.",
    "x_2d_p.2.": "map.0.",
    "x_2d_p.4.": "map.2.",
    "x_2d_p.6.": "map.4.",
}
MASK = "sample_mask"  # the constant of the boundary-matching layer, which ours makes itself


def config_of(config: Config) -> BMNConfig:
    return BMNConfig(**{ours: config[name] for name, ours in _SIZES.items() if name in config})


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the ``module.`` that DataParallel puts in front of every key."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def convert(official: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Our state dict from JJBOY's. The constant mask must be of the configuration's size, for nothing else tells the number of steps.

    Raises:
        ValueError: it is not.
    """
    sizes = config_of(config)
    ours = {}
    for key in list(official):
        name = key.removeprefix("module.")
        if name == MASK:
            shape, expected = tuple(official[key].shape), (sizes.steps, sizes.bins * sizes.steps**2)
            if shape != expected:
                raise ValueError(
                    f"{key} is {shape}; a network of {sizes.steps} steps and {sizes.bins} bins has {expected}"
                )
            del official[key]
            continue
        for prefix, new in _NAMES.items():
            if name.startswith(prefix):
                ours[new + name.removeprefix(prefix)] = official.pop(key)
    if "matching.weight" in ours:  # (folded, channels, bins, 1, 1)
        ours["matching.weight"] = ours["matching.weight"][..., 0, 0].permute(2, 1, 0)
    return ours


def _run_bmn(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    assert isinstance(module, BMN)
    out = module(inputs["x"])
    base = module.encode(inputs["x"])
    sampled = module.matching.sampled(torch.relu(module.narrow(base[:1])))
    return {
        "confidence_map": out.confidence,
        "start": out.start,
        "end": out.end,
        "base_feature": base,
        "bm_layer_sample0": sampled,
    }


def _run_loss(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    prediction, start, end = inputs["pred_map"], inputs["pred_start"], inputs["pred_end"]
    cells = BMNConfig(steps=config["temporal_scale"]).cells
    labels = []
    for number in range(len(prediction)):
        # corrected seconds: those that whole snippets cover
        seconds, frames, feature_frames = inputs[f"durations_{number}"].tolist()
        covered = feature_frames / frames * seconds
        labels.append(targets_of(inputs[f"segments_{number}"].double().numpy() / covered, cells))
    targets = Targets(*(torch.stack(parts).to(prediction) for parts in zip(*labels, strict=True)))
    weights = LossWeights(**config.get("weights", {}))
    draws = inputs["uniform_mid"], inputs["uniform_low"]
    losses = bmn_loss(prediction, start, end, targets, cells, weights=weights, draws=draws)
    return {
        "bm_mask": cells.mask(),
        "gt_iou_map": targets.iou,
        "gt_start": targets.start,
        "gt_end": targets.end,
        "loss": losses.total,
        "loss_tem": losses.tem,
        "loss_reg": losses.reg,
        "loss_cls": losses.cls,
    }


def _run_soft_nms(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    segments = np.stack([inputs["xmin"].numpy(), inputs["xmax"].numpy()], 1)
    names = {"alpha": "alpha", "t1": "low", "t2": "high", "max_keep": "most"}
    options = {ours: config[name] for name, ours in names.items() if name in config}
    kept, scores = soft_nms(segments, inputs["score"].numpy(), **options)
    remaining = torch.from_numpy(segments[kept])
    return {"xmin": remaining[:, 0], "xmax": remaining[:, 1], "score": torch.from_numpy(scores)}


def _thresholds(config: Config, default: Any) -> np.ndarray:
    given = config.get("tiou_thresholds", default)
    if isinstance(given, str):  # "linspace(0.5, 0.95, 10)"
        first, last, count = given.removeprefix("linspace(").rstrip(")").split(",")
        return np.linspace(float(first), float(last), int(count))
    return np.asarray(given, float)


def _run_precision(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    truth, predicted = inputs["gt"].numpy(), inputs["pred"].numpy()
    thresholds = _thresholds(config, (0.3, 0.4, 0.5, 0.6, 0.7))
    classes = int(config.get("num_classes", truth[:, 3].max() + 1))
    ap = average_precision(truth, predicted, thresholds, classes)
    means = np.nanmean(ap, axis=1)
    return {"ap": torch.from_numpy(ap), "mAP": torch.from_numpy(means), "average_mAP": torch.tensor(means.mean())}


def _run_recall(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    thresholds = _thresholds(config, "linspace(0.5, 0.95, 10)")
    most = config.get("max_avg_nr_proposals")
    curve = average_recall(inputs["gt"].numpy(), inputs["proposals"].numpy(), thresholds, most=most)
    return {
        "recall": torch.from_numpy(curve.recall),
        "average_recall": torch.from_numpy(curve.mean),
        "proposals_per_video": torch.from_numpy(curve.proposals),
        "auc": torch.tensor(curve.auc, dtype=torch.float64),
    }


BATCH = {"x": 0, "confidence_map": 0, "start": 0, "end": 0, "base_feature": 0}

components = {
    "BMN": Component(run=_run_bmn, build=lambda config: BMN(config_of(config)), convert=convert, batch=BATCH),
    "bmn_loss": Component(run=_run_loss),
    "soft_nms": Component(run=_run_soft_nms),
    "average_precision_detection": Component(run=_run_precision),
    "average_recall": Component(run=_run_recall),
}
