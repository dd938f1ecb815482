"""IBM/multi-variate-parallel-transformer and esl-epfl/timescoring: components of MVPFormer outside the attention layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core_attention.systems import Component, Config, StateDict
from ieeg.metrics.scores import GRID, EventRules, Score, score_event_masks, score_sample_masks, to_mask
from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig
from ieeg.model.naming import IGNORED, to_ours
from ieeg.model.objective import contrastive_logits, contrastive_loss
from ieeg.model.wavelets import WaveEncoder, wavelet_transform


def _run_encoder(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"coefficients": wavelet_transform(inputs["x"].float()), "embedding": module(inputs["x"])}


def _as_row(score: Score) -> torch.Tensor:
    """In the order of the golden case: counts, then ratios."""
    ratios = [score.sensitivity, score.precision, score.f1, score.false_per_day]
    return torch.tensor([score.true, score.tp, score.fp, *ratios], dtype=torch.float64)


def _run_scoring(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    parameters = config.get("params", {})
    rules = EventRules(
        parameters.get("toleranceStart", 30),
        parameters.get("toleranceEnd", 60),
        parameters.get("minOverlap", 0),
        parameters.get("maxEventDuration", 300),
        parameters.get("minDurationBetweenEvents", 90),
    )
    reference, hypothesis = inputs["ref_events"].numpy(), inputs["hyp_events"].numpy()
    duration = config["duration_s"]
    # As when the case was recorded: events on a grid of 10 Hz, samples at 1 Hz, both rounded.
    samples, seconds = round(duration * GRID), round(duration)
    events = score_event_masks(to_mask(reference, samples, GRID), to_mask(hypothesis, samples, GRID), GRID, rules)
    sample_score = score_sample_masks(to_mask(reference, seconds, 1), to_mask(hypothesis, seconds, 1), 1)
    return {
        "event_scores": _as_row(events.score),
        "sample_scores": _as_row(sample_score),
        "ref_after_rules": torch.from_numpy(events.reference),
        "hyp_after_rules": torch.from_numpy(events.hypothesis),
    }


def model_config(config: Config, *, classes: int = 0) -> MVPFormerConfig:
    """Our configuration from the published constructor arguments (``gpt_config``, ``encoder``, ``head``).

    Raises:
        ValueError: a wavelet other than db4, or an encoder that does not fit the decoder.
    """
    gpt, encoder = config["gpt_config"], config["encoder"]
    if encoder.get("wavelet", "db4") != "db4" or encoder.get("size_output", gpt["n_embd"]) != gpt["n_embd"]:
        raise ValueError(f"the encoder must be db4 and as wide as the decoder ({gpt['n_embd']}); got {dict(encoder)}")
    lora_rank = 0
    if gpt.get("lora", False):
        lora_rank = gpt.get("lora_rank", 8)
    return MVPFormerConfig(
        segment=encoder["size_input"],
        width=gpt["n_embd"],
        layers=gpt["n_layer"],
        heads=gpt["n_head"],
        kv_heads=gpt["n_head_kv"],
        inner=gpt["n_inner"],
        positions=gpt.get("n_positions", 110),
        channels=gpt.get("n_channels", 128),
        classes=classes,
        content=gpt.get("global_att", True),
        window=gpt.get("window", 10),
        relative_index=gpt.get("relative_index", "official"),
        scale_by_layer=gpt.get("scale_attn_by_inverse_layer_idx", False),
        embedding_dropout=gpt.get("embd_pdrop", 0.0),
        residual_dropout=gpt.get("resid_pdrop", 0.0),
        attention_dropout=gpt.get("attn_pdrop", 0.0),
        lora_rank=lora_rank,
        lora_alpha=gpt.get("lora_alpha", 16),
        eps=gpt.get("layer_norm_epsilon", 1e-5),
    )


def _convert(official: StateDict, config: Config) -> StateDict:
    ours = to_ours(official)
    official.clear()  # entries left in it would count as not used
    return ours


def _run_generative(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    encoded = module.encode(inputs["x"])
    hidden = module.decoder(encoded)
    predicted = module.head(hidden)
    outputs = {"encoded": encoded, "hidden": hidden, "predicted": predicted}
    if "negative_index" in inputs:
        temperature = config.get("temp", 0.1)
        logits = contrastive_logits(predicted, encoded, inputs["negative_index"], temperature=temperature)
        outputs |= {"logits": logits, "loss": contrastive_loss(logits)}
    return outputs


def _run_seizure(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    tokens = module.encode(inputs["x"])
    return {"hidden": module.decoder(tokens), "logits": module.classify(tokens)}


_UNUSED = ("seizure_embeddings", "*.ln_2.weight")


components = {
    "WaveEncoder": Component(
        run=_run_encoder,
        build=lambda c: WaveEncoder(c["size_input"], c["size_output"]),
        batch={"x": 0, "embedding": 0},
    ),
    "HMVPFormer": Component(
        run=_run_generative,
        build=lambda c: MVPFormer(model_config(c)),
        convert=_convert,
        ignore=IGNORED,
        unused=_UNUSED,
    ),
    "ClassificationHMVPFormer": Component(
        run=_run_seizure,
        build=lambda c: MVPFormer(model_config(c, classes=c.get("head", {}).get("size_out", 2))),
        convert=_convert,
        ignore=IGNORED,
        unused=_UNUSED,
        batch={"x": 0, "hidden": 0, "logits": 0},
    ),
    "EventScoring": Component(run=_run_scoring),
}
