"""Sampling of latents from `DiT`: denoising diffusion with learned variances (Nichol and Dhariwal 2021) and classifier-free guidance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vision_models.networks.moh.dit import DiT

TRAINED_STEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """The noise of the steps that are taken, a subset of the steps of training.

    Attributes:
        times: of each step, in the numbering of training, rising.
        beta: variance that a step adds.
        alpha_bar: share of the signal's variance that is left after a step.
    """

    times: Tensor
    beta: Tensor
    alpha_bar: Tensor


def linear_schedule(steps: int) -> Schedule:
    """`steps` steps, spread evenly over the 1,000 of training, whose variances rise linearly from 0.0001 to 0.02.

    Raises:
        ValueError: no step, or more than training had.
    """
    if not 1 <= steps <= TRAINED_STEPS:
        raise ValueError(f"steps are 1 to {TRAINED_STEPS}, got {steps}")
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TRAINED_STEPS, dtype=torch.float64), 0)
    times = torch.linspace(0, TRAINED_STEPS - 1, steps, dtype=torch.float64).round().long()
    signal = alpha_bar[times]
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    return Schedule(times, 1 - signal / before, signal)


@torch.no_grad()
def sample(
    model: DiT,
    classes: Sequence[int],
    *,
    steps: int = 250,
    cfg_scale: float = 1.25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Latents of the given classes, (batch, channels, height, width), as the autoencoder of Stable Diffusion takes them after division by 0.18215.

    Args:
        model: in evaluation mode.
        classes: one per sample.
        steps: denoising steps.
        cfg_scale: guidance; 1 is none.
        generator: of the noise, on the CPU.

    Raises:
        ValueError: classes that the model does not have, a number of steps out of range, or guidance of a model without a null class.
    """
    wrong = [label for label in classes if not 0 <= label < model.num_classes]
    if not classes or wrong:
        raise ValueError(f"classes are 0 to {model.num_classes - 1}, got {list(classes)}")
    guided = cfg_scale != 1
    if guided and len(model.y_embedder.embedding_table.weight) == model.num_classes:
        raise ValueError(
            "this model was trained without dropping classes: it has no null class, so that cfg_scale must be 1"
        )
    schedule = linear_schedule(steps)
    like = model.pos_embed
    shape = (len(classes), model.in_channels, model.input_size, model.input_size)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    labels = torch.tensor(classes, device=like.device)
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, model.num_classes)])
    x = noise()
    for step in reversed(range(steps)):
        time = torch.full(labels.shape, int(schedule.times[step]), device=like.device)
        if guided:
            out = model.forward_with_cfg(torch.cat([x, x]), time, labels, cfg_scale)[: len(x)]
        else:
            out = model(x, time, labels)
        mean, deviation = posterior(model, schedule, step, x, out)
        x = mean + deviation * noise() if step > 0 else mean
    return x


def posterior(model: DiT, schedule: Schedule, step: int, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the less noisy latent, from the model's prediction of the noise.

    The variance lies between those of the forward process, β, and of its exact posterior, β̃, where the model's second half says; without
    one it is β.
    """
    alpha_bar, beta = float(schedule.alpha_bar[step]), float(schedule.beta[step])
    before = float(schedule.alpha_bar[step - 1]) if step > 0 else 1.0
    noise = out[:, : model.in_channels]
    clean = (x - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5
    mean = clean * (beta * before**0.5 / (1 - alpha_bar)) + x * ((1 - before) * (1 - beta) ** 0.5 / (1 - alpha_bar))
    if not model.learn_sigma:
        return mean, x.new_tensor(beta**0.5)
    # the posterior variance of the first step is 0: that of the second stands for it, as published
    least = (1 - before) / (1 - alpha_bar) * beta
    if step == 0:
        least = _posterior_variance(schedule, min(1, len(schedule.beta) - 1)) or beta
    share = (out[:, model.in_channels :] + 1) / 2
    log_variance = share * torch.tensor(beta).log().to(x) + (1 - share) * torch.tensor(least).log().to(x)
    return mean, (0.5 * log_variance).exp()


def _posterior_variance(schedule: Schedule, step: int) -> float:
    before = schedule.alpha_bar[step - 1] if step > 0 else torch.ones(())
    return float((1 - before) / (1 - schedule.alpha_bar[step]) * schedule.beta[step])
