"""Who is in a training run: patients of two data sets, recordings of which nothing is known."""

import json

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.cohort import open_cohort, split
from ieeg.commands.evaluate import find_truths
from ieeg.recordings.copies import Signature, namesake_in_training, seen_in_training
from ieeg.recordings.labels import LabelOptions


@pytest.fixture
def data_set(tmp_path, write_edf):
    """A data set with one patient, sub-01: (name, rows of events.tsv) → folder."""

    def build(name, rows, seed=0):
        folder = tmp_path / name / "sub-01" / "ieeg"
        folder.mkdir(parents=True)
        x = np.random.default_rng(seed).normal(scale=30, size=(2, 2560))
        write_edf(folder / "sub-01_task-x_ieeg.edf", {"A1": (x[0], 256), "A2": (x[1], 256)})
        (tmp_path / name / "dataset_description.json").write_text(json.dumps({"Name": name}))
        if rows:
            (folder / "sub-01_task-x_events.tsv").write_text(f"onset\tduration\ttrial_type\n{rows}\n")
        return tmp_path / name

    return build


def test_patients_and_recordings_of_two_data_sets_are_not_mixed(data_set):
    folders = [data_set("first", "2\t3\tsz", 0), data_set("second", "4\t3\tsz", 1)]
    cohort = open_cohort(folders, need_seizures=True)
    assert cohort.patients == ["sub-01 (first)", "sub-01 (second)"]
    assert len({case.name for case in cohort.cases}) == 2
    learned, held_out = split(cohort, "sub-01 (second)", seed=0)
    assert [case.seizures.tolist() for case in (*learned, *held_out)] == [[[2, 5]], [[4, 7]]]
    assert [case.patient for case in open_cohort(folders[:1]).cases] == ["sub-01"]


def test_a_recording_of_which_nothing_is_known_is_left_out_and_not_free_of_seizures(data_set):
    folders = [data_set("first", "2\t3\tsz", 0), data_set("second", "4\t1\teyes open", 1), data_set("third", "", 2)]
    cohort = open_cohort(folders, need_seizures=True)
    assert cohort.patients == ["sub-01 (first)"]
    reasons = " | ".join(cohort.left_out.values())
    assert reasons.count("no record of whether it has seizures") == 2
    assert "'eyes open' (1)" in reasons
    assert len(open_cohort(folders).cases) == 3, "pre-training needs no labels"
    with pytest.raises(UserError, match="none of the recordings can be used"):
        open_cohort(folders[1:], need_seizures=True)


@pytest.mark.parametrize(
    "label", ["possible seizure", "Sz?", "seizure button", "tonic posturing", "FAS", "aura", "crisis", "発作"]
)
def test_what_may_be_a_seizure_is_neither_learned_from_nor_judged_by(data_set, tmp_path, label):
    folders = [data_set("first", "2\t3\tsz", 0), data_set("second", f"4\t1\tsz\n7\t2\t{label}", 1)]
    cohort = open_cohort(folders, need_seizures=True)
    truths, left_out = find_truths(tmp_path)
    assert cohort.patients == ["sub-01 (first)"]
    assert [len(truth.seizures) for truth in truths] == [1]
    for reasons in (cohort.left_out, left_out):
        (reason,) = reasons.values()
        assert f"labels that may be of seizures are not understood: {label!r} (1); --label-map" in reason
    table = tmp_path / "map.csv"
    table.write_text(f"label,meaning\n{label},other\n")
    assert len(open_cohort(folders, need_seizures=True, labels=LabelOptions(label_map=table)).cases) == 2


@pytest.mark.parametrize("label", ["interictal epileptiform discharges", "postictal confusion", "epileptiform spikes"])
def test_what_is_between_seizures_costs_no_recording(data_set, label):
    assert len(open_cohort([data_set("first", f"2\t3\tsz\n7\t1\t{label}")], need_seizures=True).cases) == 1


@pytest.mark.parametrize("validation", ["1", "-0.1", "1.5", "sub-77"])
def test_shares_and_names_that_are_none(data_set, validation):
    with pytest.raises(UserError, match=r"not a share|no patient"):
        split(open_cohort([data_set("first", "2\t3\tsz")]), validation, seed=0)


def test_a_namesake_is_not_the_same_patient():
    def content(name, dataset, value):
        return Signature(name, "sub-01", 2, 256, 2560, (value,) * 40, (), dataset)

    provenance = {"recordings": [content("a", "first", 10.0).plain() | {"held_out": False}]}
    same, other = content("b", "first", 20.0), content("b", "second", 20.0)
    assert "other recordings of patient sub-01" in seen_in_training(provenance, same)
    assert seen_in_training(provenance, other) == ""
    assert "a patient called sub-01 as well, in another data set (first)" in namesake_in_training(provenance, other)
    assert namesake_in_training(provenance, same) == ""
    assert namesake_in_training(None, same) == ""
