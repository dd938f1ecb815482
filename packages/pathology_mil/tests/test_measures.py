"""Measures of slide classifiers against scikit-learn, and CLAM's tables."""

import csv
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from pathology_mil.metrics import measure
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
    for name, (low, high) in found.interval.items():
        assert low <= getattr(found, name) <= high, name
    assert any("sensitivity" in line for line in found.lines())


def test_one_class_only_has_no_area():
    found = measure(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]), ["a", "b"], resamples=10)
    assert math.isnan(found.auroc)
    assert math.isnan(found.interval["auroc"][0])
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
