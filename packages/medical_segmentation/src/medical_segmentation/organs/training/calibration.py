"""What the held-out cases say of the model's certainty: a temperature, and a threshold to abstain below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from core_runtime.terminal import track
from medical_segmentation.organs.cohort.dataset import Case, Dataset
from medical_segmentation.organs.judging import Judgement
from medical_segmentation.organs.metrics.certainty import conformal_threshold, fit_temperature
from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.model.streaming import window_scores
from medical_segmentation.organs.options import InferenceOptions
from medical_segmentation.organs.training.data import PreparedCase
from medical_segmentation.volumes.volume import ReadingOptions

VOXELS = 20_000  # of each case


def judge(
    model: OrganModel,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    settings: InferenceOptions = InferenceOptions(confidence=True),
    reading: ReadingOptions = ReadingOptions(),
    tolerance: float = 2.0,
) -> Judgement:
    """Predicts cases on their own grids and judges them."""
    judgement = Judgement()
    for case in track(cases, "Judging", len(cases)):
        volume = dataset.image(case, reading)
        truth = dataset.labels(case, volume)
        result = model.predict(volume, settings)
        judgement.add(
            case.name,
            case.patient,
            result.labels,
            truth,
            volume.geometry,
            model.classes,
            regions=dataset.regions,
            confidence=result.confidence,
            tolerance=tolerance,
        )
    return judgement


def calibrate(
    model: OrganModel,
    dataset: Dataset,
    cases: Sequence[Case],
    prepared: Sequence[PreparedCase],
    *,
    risk: float,
    reading: ReadingOptions = ReadingOptions(),
) -> tuple[OrganModel, float | None, str, Judgement]:
    """The model with its temperature, the threshold for the given risk, a sentence about it, and the judgement of the cases."""
    log_probabilities, truths = [], []
    rng = np.random.default_rng(0)
    for case in prepared:
        image, labels = np.array(case.image), np.asarray(case.labels)
        if model.preparation.dims == 2:
            slabs = model.slice_scores(image, InferenceOptions())
        else:
            slabs = window_scores(model.probabilities, image, model.preparation.window, device=model.device)
        for first, scores in slabs:
            shares = scores.numpy().reshape(scores.shape[0], -1)
            truth = labels[..., first : first + scores.shape[-1]].reshape(-1)
            matters = np.flatnonzero((truth > 0) | (shares.argmax(0) > 0) | (shares.max(0) < 0.99))
            wanted = max(1, VOXELS * scores.shape[-1] // image.shape[3])
            chosen = rng.choice(matters, min(len(matters), wanted), replace=False) if matters.size else matters
            log_probabilities.append(np.log(shares[:, chosen].T.clip(1e-7)))
            truths.append(truth[chosen])
    temperature = fit_temperature(np.concatenate(log_probabilities), np.concatenate(truths).astype(int))
    calibrated = replace(model, temperature=temperature)
    judgement = judge(calibrated, dataset, cases, reading=reading)
    curves = judgement.curves
    threshold = conformal_threshold(curves, risk)
    if threshold is None:
        needed = int(np.ceil(1 / risk)) - 1
        sentence = f"Abstention: a risk of {risk:g} cannot be promised from {len(curves)} held-out cases (at least {needed}, and a better model, are needed)"
    else:
        sentence = f"Abstention: below a confidence of {threshold:.3f} (--abstain), at most {risk:g} of a new case's organ voxels are wrong, in expectation"
    return calibrated, threshold, sentence, judgement
