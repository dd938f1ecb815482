"""IBM/multi-variate-parallel-transformer and esl-epfl/timescoring: components of MVPFormer outside the attention layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core_attention.systems import Component, Config, System
from ieeg.scoring import EventRules, Score, score_events, score_samples
from ieeg.wavelets import WaveEncoder, wavelet_transform


def _run_encoder(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"coefficients": wavelet_transform(inputs["x"].float()), "embedding": module(inputs["x"])}


def _row(score: Score) -> torch.Tensor:
    ratios = [score.sensitivity, score.precision, score.f1, score.false_per_day]
    return torch.tensor([score.true, score.tp, score.fp, *ratios], dtype=torch.float64)


def _run_scoring(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    p = config.get("params", {})
    rules = EventRules(
        p.get("toleranceStart", 30),
        p.get("toleranceEnd", 60),
        p.get("minOverlap", 0),
        p.get("maxEventDuration", 300),
        p.get("minDurationBetweenEvents", 90),
    )
    reference, hypothesis, duration = inputs["ref_events"].numpy(), inputs["hyp_events"].numpy(), config["duration_s"]
    events = score_events(reference, hypothesis, duration, rules=rules)
    return {
        "event_scores": _row(events.score),
        "sample_scores": _row(score_samples(reference, hypothesis, duration)),
        "ref_after_rules": torch.from_numpy(events.reference),
        "hyp_after_rules": torch.from_numpy(events.hypothesis),
    }


system = System(
    "mvpformer",
    {
        "WaveEncoder": Component(
            run=_run_encoder,
            build=lambda c: WaveEncoder(c["size_input"], c["size_output"]),
            batch={"x": 0, "embedding": 0},
        ),
        "EventScoring": Component(run=_run_scoring),
    },
)
