"""Streamed windows give what keeping every score gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medical_segmentation.organs.model.streaming import answer, importance, starts, window_scores


def scores_of(x):
    """Four classes that depend on a voxel and its neighbours."""
    blurred = F.avg_pool3d(x, 3, 1, 1)
    return torch.cat([x, blurred, x * blurred, 0.3 - x], 1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("shape", [(20, 17, 40), (9, 30, 11), (16, 16, 16)])
def test_slabs_are_the_weighted_mean_of_all_windows(shape, overlap):
    torch.manual_seed(0)
    volume = torch.randn(1, *shape)
    window = (12, 12, 12)
    parts = [each.clone() for _, each in window_scores(scores_of, volume, window, overlap=overlap)]
    ours = torch.cat(parts, -1)
    padded, offset = volume, [0, 0, 0]
    for axis, (side, own) in enumerate(zip(window, shape, strict=True)):
        if own < side:
            offset[axis] = (side - own) // 2
            pads = [0, 0, 0, 0, 0, 0]
            pads[2 * (2 - axis)], pads[2 * (2 - axis) + 1] = offset[axis], side - own - offset[axis]
            padded = F.pad(padded, pads, value=float(volume.min()))
    total, mass = torch.zeros(4, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    weight = importance(window)
    places = [starts(side, own, overlap) for side, own in zip(padded.shape[1:], window, strict=True)]
    for x in places[0]:
        for y in places[1]:
            for z in places[2]:
                box = (slice(x, x + 12), slice(y, y + 12), slice(z, z + 12))
                total[(slice(None), *box)] += scores_of(padded[(slice(None), *box)][None])[0] * weight
                mass[box] += weight
    expected = (total / mass)[(slice(None), *(slice(o, o + s) for o, s in zip(offset, shape, strict=True)))]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 16, 12), (10, 33, 25), (20, 16, 5), (20, 16, 30), (20, 8, 12)])
def test_the_answer_is_that_of_resampling_all_scores(size):
    torch.manual_seed(0)
    scores = torch.randn(3, 20, 16, 12)
    slabs = ((k, scores[..., k : k + 4]) for k in range(0, 12, 4))
    ours = answer(slabs, size, 12, confidence=True)
    whole = F.interpolate(scores[None], size=size, mode="trilinear", align_corners=False)[0]
    expected = whole.argmax(0).numpy()
    top = whole.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-4).numpy()
    assert np.array_equal(ours.labels[clear], expected[clear])
    assert clear.mean() > 0.99
    assert np.allclose(ours.confidence, whole.softmax(0).amax(0).numpy(), atol=2e-3)


@pytest.mark.slow
def test_windows_and_weights_are_those_of_monai():
    from medical_segmentation.organs.model.networks import quiet_monai

    with quiet_monai():
        from monai.inferers.utils import sliding_window_inference
    torch.manual_seed(0)
    volume = torch.randn(1, 30, 25, 41)
    ours = torch.cat([each.clone() for _, each in window_scores(scores_of, volume, (16, 16, 16), overlap=0.25)], -1)
    theirs = sliding_window_inference(volume[None], (16, 16, 16), 4, scores_of, overlap=0.25, mode="gaussian")[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
