"""The three label styles against their direct definition, and what must hold of them in limits."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gui_grounding.model.labels import STYLES, multi_patch_labels, token_index

GRID = (9, 6)
SIZE = (GRID[0] * 28, GRID[1] * 28)


def direct(box, width, height, style, factor):
    """The published definition, a cell at a time."""
    x1, x2 = (min(max(v * width, 0), width) for v in box[::2])
    y1, y2 = (min(max(v * height, 0), height) for v in box[1::2])
    mx, my = (x1 + x2) / 2, (y1 + y2) / 2
    labels = np.zeros((height // 28, width // 28))
    for row in range(height // 28):
        for column in range(width // 28):
            ax, bx = max(column * 28, x1), min(column * 28 + 28, x2)
            ay, by = max(row * 28, y1), min(row * 28 + 28, y2)
            if style == "center":
                labels[row, column] = column == min(mx // 28, GRID[0] - 1) and row == min(my // 28, GRID[1] - 1)
            elif ax < bx and ay < by:
                labels[row, column] = 1
                if style == "gauss":
                    across = norm(mx, (x2 - x1) / factor)
                    down = norm(my, (y2 - y1) / factor)
                    labels[row, column] = (across.cdf(bx) - across.cdf(ax)) * (down.cdf(by) - down.cdf(ay))
    return labels.ravel()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("factor", [1, 4.1325])
def test_labels_are_their_definition(style, factor):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-0.1, 1.1, (40, 2, 2)), axis=1).reshape(40, 4)
    corners = corners[(corners[:, 2] > 0.01) & (corners[:, 3] > 0.01) & (corners[:, 0] < 0.99) & (corners[:, 1] < 0.99)]
    labels = multi_patch_labels(torch.from_numpy(corners), *SIZE, style=style, sigma_factor=factor)
    for box, ours in zip(corners, labels.numpy(), strict=True):
        np.testing.assert_allclose(ours, direct(box, *SIZE, style, factor), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [0.5, 1, 3, 8])
def test_the_sum_of_gaussian_labels_does_not_depend_on_the_grid(factor):
    box = torch.tensor([[0.13, 0.21, 0.77, 0.5]])
    expected = (2 * norm.cdf(factor / 2) - 1) ** 2
    for width, height in ((252, 168), (1008, 280), (28, 28)):
        labels = multi_patch_labels(box, width, height, sigma_factor=factor)
        assert labels.sum().item() == pytest.approx(expected, rel=1e-5)


def test_gaussian_labels_are_symmetric_and_have_their_limits():
    # whole cells: columns 2 to 6, rows 1 to 3
    box = torch.tensor([[2 / 9, 1 / 6, 7 / 9, 4 / 6]], dtype=torch.float64)
    labels = multi_patch_labels(box, *SIZE).reshape(GRID[1], GRID[0])
    torch.testing.assert_close(labels, labels.flip(1))
    torch.testing.assert_close(labels[1:4], labels[1:4].flip(0))
    flat = multi_patch_labels(box, *SIZE, sigma_factor=1e-3)[0]
    inside = flat[flat > 0]
    torch.testing.assert_close(inside / inside.sum(), torch.full((15,), 1 / 15), rtol=1e-4, atol=0)
    peaked = multi_patch_labels(box, *SIZE, sigma_factor=1e3)[0]
    assert int(peaked.argmax()) == 2 * GRID[0] + 4
    assert peaked.max().item() == pytest.approx(1)


def test_a_box_within_one_cell_has_one_label_in_every_style():
    box = torch.tensor([[29 / SIZE[0], 30 / SIZE[1], 50 / SIZE[0], 40 / SIZE[1]]])
    normalised = []
    for style in STYLES:
        labels = multi_patch_labels(box, *SIZE, style=style)
        normalised.append(labels / labels.sum())
    torch.testing.assert_close(normalised[0], normalised[1])
    torch.testing.assert_close(normalised[0], normalised[2])


def test_points_at_the_far_edge_are_in_the_last_cell():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert token_index(points, *SIZE).tolist() == [0, 53, 8]


def test_what_has_no_labels_is_refused():
    with pytest.raises(ValueError, match="multiples of 28"):
        multi_patch_labels(torch.tensor([[0.0, 0, 1, 1]]), 100, 28)
    with pytest.raises(ValueError, match="no area"):
        multi_patch_labels(torch.tensor([[0.5, 0.5, 0.5, 0.6]]), *SIZE)
    with pytest.raises(ValueError, match="no area"):
        multi_patch_labels(torch.tensor([[1.1, 0.5, 1.2, 0.6]]), *SIZE)
