"""The CHM learner as its paper defines it, one pair of images and one offset at a time: what the fast path in `learner` must equal.

Nothing but tests and the benchmark calls it.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from explainability.chm_corr.learner import CHMLearner, filter_mutual


def resize4d(x: Float[Tensor, "h w h2 w2"], side: int) -> Float[Tensor, "side side side side"]:
    """Both pairs of axes resized, bilinear with aligned corners."""
    h, w, h2, w2 = x.shape
    target = F.interpolate(x.reshape(1, h * w, h2, w2), (side, side), mode="bilinear", align_corners=True)
    source = target.view(h, w, side * side).permute(2, 0, 1)[None]
    source = F.interpolate(source, (side, side), mode="bilinear", align_corners=True)[0]
    return source.permute(1, 2, 0).reshape(side, side, side, side)


def correlate4d(x: Float[Tensor, "h w h2 w2"], kernel: Float[Tensor, "k k k k"]) -> Float[Tensor, "h w h2 w2"]:
    """Zero-padded 4-D cross-correlation: for each source row of the kernel a 3-D one."""
    h, k = x.shape[0], kernel.shape[0]
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, k // 2, k // 2))
    total = torch.zeros_like(x)
    for row in range(k):
        rows = padded[row : row + h, None]
        total = total + F.conv3d(rows, kernel[row][None, None], padding=k // 2)[:, 0]
    return total


def match_pair(
    model: CHMLearner, source: Float[Tensor, "1 c s s"], target: Float[Tensor, "1 c s s"]
) -> Float[Tensor, "n n"]:
    """The correlation of one pair, (2s)² source positions with as many target positions."""
    side = source.shape[-1]
    scaled: list[list[Tensor]] = [[], []]
    for features, image in zip((source, target), scaled, strict=True):
        for scale, convolution in zip(model.scales, model.convolutions, strict=True):
            size = round(side * math.sqrt(scale))
            resized = F.interpolate(features, (size, size), mode="bilinear", align_corners=True)
            image.append(F.normalize(convolution(resized)[0], dim=0, eps=1e-30))
    correlations = []
    for a in scaled[0]:
        for b in scaled[1]:
            correlations.append(resize4d(torch.einsum("cij,ckl->ijkl", a, b), side).clamp(min=0))
    kernel = model.votes6d.kernel()
    best = None
    for s in range(3):
        for t in range(3):
            votes = torch.zeros_like(correlations[0])
            for in_s in range(max(0, s - 1), min(3, s + 2)):
                for in_t in range(max(0, t - 1), min(3, t + 2)):
                    votes = votes + correlate4d(correlations[3 * in_s + in_t], kernel[in_s - s + 1, in_t - t + 1])
            votes = (votes + model.votes6d.bias).sigmoid()
            best = votes if best is None else torch.maximum(best, votes)
    assert best is not None
    finer = resize4d(best, 2 * side)
    final = F.softplus(correlate4d(finer, model.votes4d.kernel()) + model.votes4d.bias)
    return filter_mutual(final.reshape(1, (2 * side) ** 2, (2 * side) ** 2))[0]
