"""The next segments of every channel: the predictions of a generative MVPFormer, and how near the truth they are.

The model predicts embeddings, and only their direction is trained (the objective is a cosine). A waveform is the likeliest signal, given the
spectrum of the segments before, for which the encoder would give this direction, scaled to the channel's last known segment;
whatever an embedding does not hold (it is narrower than a segment) comes from that spectrum alone. The honest measures are in embeddings: the
cosine with the true next segment's, beside that of the simplest forecast (the last known segment again), and how often the truth is ranked
first among other segments.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from core_runtime.errors import UserError
from ieeg.model.inference import Signals, fits
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.wavelets import wavelet_transform


@dataclass(frozen=True)
class Forecast:
    """Forecasts of consecutive segments.

    Attributes:
        names: of the channels.
        first: number of the first segment forecast.
        context: (channels, samples), the last known segment, µV.
        predicted: (steps, channels, samples), µV.
        truth: likewise, of the steps that the recording holds (fewer, or none, at its end).
        similarity: (known steps, channels): cosine of the predicted and the true embedding.
        persistence: likewise, of the last known segment's embedding and the true one.
        found: (known steps,): share of channels whose true next segment is nearer to the forecast than all other known segments.
        padded: number of segments of the window that the recording did not have; its first one is repeated.
    """

    names: list[str]
    first: int
    context: NDArray[np.float32]
    predicted: NDArray[np.float32]
    truth: NDArray[np.float32]
    similarity: NDArray[np.float32]
    persistence: NDArray[np.float32]
    found: NDArray[np.float32]
    padded: int


def forecast_segments(
    model: MVPFormer, signals: Signals, *, first: int | None = None, steps: int = 1, window: int = 25
) -> Forecast:
    """Forecasts `steps` segments, each from the ones before it and its own predecessors among the forecasts.

    Args:
        model: generative, in evaluation mode.
        first: the first segment forecast; default: so that the last one is the recording's last, and the truth is there.
        window: segments T that each forecast is based on.

    Raises:
        UserError: a model with a seizure head, no segment before the first, or a recording that does not fit the model.
    """
    if model.config.classes:
        raise UserError(
            "this model has a seizure head and cannot forecast",
            "use a generative model: 'ieeg train --task pretrain', or a published base checkpoint",
        )
    fits(model, signals)
    if first is None:
        first = max(1, signals.segment_count - steps)
    if steps < 1 or not 1 <= first <= signals.segment_count:
        raise UserError(
            f"segments {first} to {first + steps - 1} cannot be forecast: the recording has {signals.segment_count}",
            "a forecast needs at least one segment before it",
        )
    begin = max(0, first - window)
    known = torch.from_numpy(signals.segments(begin, min(first + steps, signals.segment_count)))
    weight = model.head.weight
    with torch.inference_mode():
        embeddings = model.encode(known.to(weight.device, weight.dtype))
        past, future = embeddings[: first - begin], embeddings[first - begin :]
        padded = window - len(past)
        moving_window = torch.cat([past[:1].expand(padded, -1, -1), past])[None]
        # Only directions are predicted; as input of the next step, a forecast gets the mean length of the channel's embeddings.
        length = past.norm(dim=-1).mean(0)[None, :, None]
        directions = []
        for _ in range(steps):
            direction = F.normalize(model.predict_next(moving_window, last=True)[:, 0], dim=-1)
            directions.append(direction[0])
            moving_window = torch.cat([moving_window[:, 1:], (direction * length)[:, None]], 1)
        predicted = torch.stack(directions)
        context = known[first - begin - 1]
        waves = waveforms(model, predicted, known[: first - begin]).float().cpu()
        level = context.std(-1) / waves.std(-1).clamp_min(1e-12)
        similarity, persistence, ranked_first = _measure(predicted[: len(future)], future, past)
    return Forecast(
        list(signals.names),
        first,
        context.numpy(),
        (waves * level[..., None]).numpy(),
        known[first - begin :].numpy(),
        similarity,
        persistence,
        ranked_first,
        padded,
    )


def _measure(predicted: Tensor, future: Tensor, past: Tensor) -> tuple[NDArray[np.float32], ...]:
    """`similarity`, `persistence` and `found` of `Forecast`, from embeddings (segments, channels, width)."""
    similarity = F.cosine_similarity(predicted, future, dim=-1)
    persistence = F.cosine_similarity(past[-1:], future, dim=-1)
    # (steps, channels, candidates): the channel's own past segments and the other forecast segments are the distractors.
    pool = F.normalize(torch.cat([past, future]), dim=-1)
    scores = torch.einsum("scw,ncw->scn", predicted, pool)
    true_index = torch.arange(len(future), device=scores.device) + len(past)
    ranked_first = (scores.argmax(-1) == true_index[:, None]).float().mean(-1)
    return tuple(measure.float().cpu().numpy() for measure in (similarity, persistence, ranked_first))


def waveforms(
    model: MVPFormer,
    embeddings: Float[Tensor, "*lead width"],
    like: Float[Tensor, "segments channels samples"] | None = None,
) -> Float[Tensor, "*lead samples"]:
    """The likeliest signals with these directions as embeddings, among Gaussian ones with the spectrum of `like`; their scale is arbitrary.

    The encoder is linear but for its scale, e ∝ M x. With Σ the covariance of the spectrum, x = Σ Mᵀ (M Σ Mᵀ + ε)⁻¹ e; without `like`,
    Σ = 1, which is the smallest signal.
    """
    encoder = model.encoder
    weight = encoder.proj.weight
    unit = torch.eye(encoder.size_input, dtype=torch.float32, device=weight.device)
    matrix = (weight * encoder.ln.weight).float() @ wavelet_transform(unit).T  # (width, samples)
    coloured = matrix
    if like is not None:
        power = torch.fft.rfft(like.to(weight.device, torch.float32)).abs().square().mean((0, 1))
        power = power / power.mean().clamp_min(1e-12) + 1e-6
        # M Σ: a covariance is a product in the spectrum
        coloured = torch.fft.irfft(torch.fft.rfft(matrix) * power, encoder.size_input)
    gram = coloured @ matrix.T
    gram.diagonal().add_(1e-5 * gram.diagonal().mean())  # ε, in proportion
    solved = torch.linalg.solve(gram, embeddings.float().flatten(0, -2).T)
    return (coloured.T @ solved).T.unflatten(0, embeddings.shape[:-1])
