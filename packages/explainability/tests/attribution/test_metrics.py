import pytest
import torch
from torch import nn

from explainability.attribution.metrics import (
    deletion,
    energy_in_mask,
    insertion,
    pointing_game,
    randomisation_check,
    rank_correlation,
)


class Bright(nn.Module):
    """How bright a square is decides."""

    def forward(self, x):
        score = x[:, :, 4:8, 4:8].mean((1, 2, 3))
        return torch.stack([20 * score - 10, -20 * score + 10], 1)


def scene():
    x = torch.zeros(2, 3, 16, 16)
    x[:, :, 4:8, 4:8] = 1
    mask = torch.zeros(2, 16, 16)
    mask[:, 4:8, 4:8] = 1
    return x, mask


TARGET = torch.tensor([0, 0])


def test_a_perfect_map_beats_all_others():
    x, mask = scene()
    model = Bright()
    random = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    areas = [insertion(model, x, maps, TARGET, baseline="zeros").area for maps in (mask, random, -mask)]
    assert (areas[0] > 0.95).all()
    assert ((areas[1] - 0.5).abs() < 0.15).all()
    assert (areas[2] < 0.05).all()
    lost = [deletion(model, x, maps, TARGET).area for maps in (mask, random, -mask)]
    assert (lost[0] < 0.05).all()
    assert (lost[2] > 0.95).all()


def test_batches_arrays_and_tensors_give_the_same_numbers():
    x, _ = scene()
    maps = torch.rand(2, 16, 16)
    a = insertion(Bright(), x, maps, TARGET, batch_size=1)
    b = insertion(Bright(), x, maps.numpy(), TARGET, batch_size=16)
    assert torch.allclose(a.probabilities, b.probabilities, atol=1e-6)
    assert a.probabilities.shape == (2, 51)


def test_energy_and_pointing():
    _, mask = scene()
    masks = mask.bool()
    assert energy_in_mask(mask, masks).tolist() == [1, 1]
    assert energy_in_mask(torch.ones(2, 16, 16), masks)[0].item() == pytest.approx(16 / 256)
    assert energy_in_mask(-mask, masks).isnan().all()
    maps = torch.zeros(2, 16, 16)
    maps[0, 5, 5] = maps[1, 10, 10] = 1
    assert pointing_game(maps, masks, tolerance=0).tolist() == [True, False]
    assert pointing_game(maps, masks, tolerance=5).tolist() == [True, True]


def test_rank_correlation_is_spearman():
    from scipy.stats import spearmanr

    torch.manual_seed(0)
    a, b = torch.randint(0, 5, (2, 6, 6)), torch.rand(2, 6, 6)
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected)
    assert rank_correlation(torch.ones(1, 3, 3), torch.rand(1, 3, 3)).tolist() == [0]


def test_randomisation_finds_a_map_that_ignores_the_model():
    x, _ = scene()
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 2)).eval()
    of_image = randomisation_check(model, x.sum(1), lambda fresh: x.sum(1))
    of_model = randomisation_check(model, _weights(model), _weights)
    assert (of_image > 0.99).all()
    assert (of_model.abs() < 0.5).all()


def _weights(model):
    return model[1].weight[0].detach().view(1, 3, 16, 16).sum(1)


def test_maps_of_another_size_or_not_finite():
    x, mask = scene()
    with pytest.raises(ValueError, match=r"needs maps \(2, 16, 16\)"):
        insertion(Bright(), x, mask[:, :8], TARGET)
    with pytest.raises(ValueError, match="not finite"):
        insertion(Bright(), x, mask * float("nan"), TARGET)
