import numpy as np
import pytest

from explainability.sat_wsol.localisation import boxes_of_mask, localise


def test_a_perfect_map_and_an_empty_one():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:25] = True
    assert boxes_of_mask(mask) == [(5, 10, 24, 19)]
    perfect, off = mask.astype(float), np.roll(mask, 20, 0).astype(float)
    both = localise([perfect, off], [boxes_of_mask(mask)] * 2, [True, True], 0.4, [mask, mask])
    assert both.gt_known == both.top1 == both.max_box_acc == 0.5
    # of the second map all of the picture is above 0: IoU 200 / 1600 is below every limit
    assert both.max_box_acc_v2 == pytest.approx(0.5)
    assert localise([perfect], [boxes_of_mask(mask)], [False], 0.4).top1 == 0


def test_the_community_sweeps_one_threshold_for_all():
    """Two maps that need different thresholds: the paper's choice and MaxBoxAcc take one for the set, never one per picture."""
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    # the first needs a threshold above 0.6, the second one of at most 0.4
    haze, spot = np.full((20, 20), 0.6), np.zeros((20, 20))
    haze[mask], haze[0, 0] = 1.0, 0.0
    spot[mask], spot[0, 0] = 0.4, 1.0
    result = localise([haze, spot], [boxes_of_mask(mask)] * 2, [True, True], 0.4)
    assert result.max_box_acc == 0.5
    assert result.gt_known_chosen == 0.5
