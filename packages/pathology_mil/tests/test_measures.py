"""Measures of slide classifiers against scikit-learn, and CLAM's tables."""

import csv
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from pathology_mil.metrics import confusion, f1_macro, measure
from pathology_mil.reports.tables import write_fold_table, write_summary


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("n_class", [2, 4])
def test_measures_are_scikit_learns(n_class):
    rng = np.random.default_rng(n_class)
    p, y = rng.dirichlet(np.ones(n_class), 60), rng.integers(0, n_class, 60)
    found = measure(torch.from_numpy(p), torch.from_numpy(y), [f"c{i}" for i in range(n_class)], resamples=50)
    said = p.argmax(1)
    area = roc_auc_score(y, p[:, 1]) if n_class == 2 else roc_auc_score(y, p, multi_class="ovr")
    assert found.auroc == pytest.approx(area, abs=1e-6)
    assert found.accuracy == found.f1_micro == pytest.approx(accuracy_score(y, said))
    assert found.f1_macro == pytest.approx(f1_score(y, said, average="macro"))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, said))
    assert list(found.sensitivity.values()) == pytest.approx(recall_score(y, said, average=None).tolist())
    assert found.specificity["c1"] == pytest.approx(recall_score(y != 1, said != 1))
    values = found.plain()
    for kind in ("sensitivity", "specificity"):
        values |= {f"{kind} {name}": value for name, value in values[kind].items()}
    assert len(found.interval) == 5 + 2 * n_class
    for name, (low, high) in found.interval.items():
        assert low <= values[name] <= high, name
    assert any("sensitivity" in line for line in found.lines())
    assert "95 % interval" in next(iter(found.lines()))


def test_one_class_only_has_no_area():
    found = measure(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]), ["a", "b"], resamples=10)
    assert math.isnan(found.auroc)
    assert math.isnan(found.interval["auroc"][0])
    assert math.isnan(found.interval["sensitivity b"][0])
    assert found.accuracy == 0.5
    assert math.isnan(found.sensitivity["b"])


def test_intervals_are_the_same_under_a_seed():
    p, y = torch.rand(20, 2).softmax(1), torch.randint(0, 2, (20,))
    assert measure(p, y, "ab", resamples=30) == measure(p, y, "ab", resamples=30)


def test_clam_tables(tmp_path):
    write_fold_table(tmp_path / "fold_0.csv", ["a", "b"], [1, 0], torch.tensor([[0.25, 0.75], [0.4, 0.6]]))
    rows = rows_of(tmp_path / "fold_0.csv")
    assert list(rows[0]) == ["slide_id", "Y", "Y_hat", "p_0", "p_1"]
    assert rows[1] == {
        "slide_id": "b",
        "Y": "0",
        "Y_hat": "1",
        "p_0": "0.4000000059604645",
        "p_1": "0.6000000238418579",
    }
    write_summary(tmp_path / "summary.csv", [{"test_auc": 0.5, "test_acc": 1.0}])
    assert (tmp_path / "summary.csv").read_text() == ",folds,test_auc,val_auc,test_acc,val_acc\n0,0,0.5,,1.0,\n"


def test_intervals_are_of_95_percent_over_patients():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 600)
    right = rng.random(600) < 0.75
    p = np.where((y == 1) == right, 0.9, 0.1)
    p = np.stack([1 - p, p], 1)
    low, high = measure(p, y, "ab", resamples=2000).interval["accuracy"]
    spread = math.sqrt(0.75 * 0.25 / 600)
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.07)
    # every slide five times: the same patients, the same interval
    copies = measure(
        np.repeat(p, 5, 0), np.repeat(y, 5), "ab", patients=np.repeat(np.arange(600), 5).tolist(), resamples=500
    )
    assert copies.patients == 600
    assert copies.interval["accuracy"] == pytest.approx((low, high), abs=0.01)


def test_five_slides_claim_no_certainty():
    p, y = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), np.array([0, 0, 1, 1, 1])
    for probabilities in (p, p[:, ::-1]):
        found = measure(probabilities, y, "ab", resamples=200)
        assert found.auroc in (0.0, 1.0)
        for name in ("auroc", "accuracy", "f1_macro", "balanced_accuracy", "sensitivity a", "specificity a"):
            low, high = found.interval[name]
            assert high - low > 0.4, name


def test_intervals_are_of_95_percent():
    """Of a hundred patients with half of the slides right, the interval is that of a share of a hundred."""
    labels = torch.tensor([0, 1] * 50)
    said = torch.tensor([0, 0, 1, 1] * 25)
    p = torch.nn.functional.one_hot(said, 2).double()
    low, high = measure(p, labels, "ab", resamples=4000).interval["accuracy"]
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.011)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.011)
    low, high = measure(
        torch.eye(2)[[0, 1]].double().repeat(10, 1), torch.tensor([0, 1] * 10), "ab", resamples=50
    ).interval["accuracy"]
    assert high == 1
    assert low == pytest.approx(20 / (20 + 1.96**2), abs=1e-3), "Wilson's, which does not collapse at 1"


def test_macro_f1_is_over_the_classes_that_occur():
    counts = confusion(
        np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3
    )  # nobody has the third class, nobody is given it
    assert f1_macro(counts) == pytest.approx((2 / 3 + 4 / 5) / 2)
