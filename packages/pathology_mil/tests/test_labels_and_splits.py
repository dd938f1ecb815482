"""Label tables and split files: every layout in use, patients kept together, and what is refused."""

import json
from collections import Counter

import pytest

from core_runtime.errors import UserError
from pathology_mil.cohort.labels import Labels, labels_of_bags, read_labels, sorted_classes
from pathology_mil.cohort.options import MERGES, LabelOptions
from pathology_mil.cohort.splits import (
    Split,
    camelyon16,
    check_splits,
    few_shot,
    make_splits,
    read_splits,
    write_splits,
)
from pathology_mil.slides.formats import slide_id


def write(path, *lines):
    path.write_text("\n".join(lines))
    return path


def many(n=30, classes=2, slides_a_case=2):
    slides = [f"s{i}" for i in range(n)]
    label = {s: i // slides_a_case % classes for i, s in enumerate(slides)}
    return Labels(label, tuple("abc"[:classes]), {s: f"p{i // slides_a_case}" for i, s in enumerate(slides)})


def test_classes_are_sorted_whatever_the_order_of_rows(tmp_path):
    table = write(tmp_path / "l.csv", "slide_id,label", "x.svs,tumour", "folder/y.h5,normal", "z.1,tumour")
    labels = read_labels(table)
    assert labels.classes == ("normal", "tumour")
    assert labels.label == {"x": 1, "y": 0, "z.1": 1}
    assert labels.case == {"x": "x", "y": "y", "z.1": "z.1"}
    assert sorted_classes(["10", "9", "2"]) == ("2", "9", "10")
    assert read_labels(table, classes=["tumour", "normal"]).label["x"] == 0


def test_merges_columns_and_left_out_rows(tmp_path):
    table = write(tmp_path / "l.csv", "case_id,slide_id,label,other", "1,a,0,x", "1,b,4,y", "2,c,6,", "3,d,3,x")
    labels = read_labels(table, merge=MERGES["bracs", 3])
    assert labels.classes == ("0", "1", "2")
    assert labels.label == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert labels.case["a"] == labels.case["b"] == "1"
    other = read_labels(table, LabelOptions(label_col="other"))
    assert other.classes == ("x", "y")
    assert "c" not in other.label
    assert "4 rows, 3 used, 1 left out: 1 without a label (line 4)" in other.notes[0]
    merged = read_labels(table, LabelOptions(label_map=("4=0", "6 = 3")))
    assert merged.classes == ("0", "3")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["slide,label", "a,0"], "no column 'slide_id'"),
        (["slide_id,grade", "a,0"], "no column 'label'"),
        (["slide_id,label", "a,0", "a.svs,1"], "two labels"),
        (["slide_id,label", "a,"], "no slide has a value"),
        ([""], "is empty"),
    ],
)
def test_unusable_tables_are_one_line(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as error:
        read_labels(write(tmp_path / "l.csv", *lines))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot read"):
        read_labels(tmp_path / "absent.csv")


def test_labels_in_an_acmil_file():
    assert labels_of_bags({"a": 2, "b": 0}).classes == ("0", "2")
    assert labels_of_bags({"a": 1}, classes=["normal", "tumour"]).label == {"a": 1}
    assert labels_of_bags({"a": 2}, classes=["0", "2"]).label == {"a": 1}
    with pytest.raises(UserError, match="class numbers 5 are not among"):
        labels_of_bags({"a": 5}, classes=["normal", "tumour"])
    with pytest.raises(UserError, match="no labels"):
        labels_of_bags({"a": 2, "b": None})


def test_slide_ids_drop_folders_and_known_endings_only():
    assert [slide_id(s) for s in ("x/TCGA-1.2.svs", "a.NDPI", "b.h5", "c.01", "w\\d.tif")] == [
        "TCGA-1.2",
        "a",
        "b",
        "c.01",
        "d",
    ]


def test_clam_split_files_round_trip(tmp_path):
    labels = many()
    splits = make_splits(labels, folds=5, seed=3)
    write_splits(tmp_path, splits, labels)
    assert [tuple(map(set, s)) for s in read_splits(tmp_path)] == [tuple(map(set, s)) for s in splits]
    from_bool = read_splits(tmp_path / "splits_0_bool.csv")[0]
    assert tuple(map(set, from_bool)) == tuple(map(set, splits[0]))
    descriptor = (tmp_path / "splits_0_descriptor.csv").read_text().splitlines()
    assert descriptor[0] == ",train,val,test"
    assert sum(map(int, descriptor[1].split(",")[1:])) == 16  # class a


def test_other_split_files(tmp_path):
    names = {"train_names": ["a.h5", "b"], "val_names": ["c"], "test_names": []}
    (tmp_path / "split_1.json").write_text(json.dumps(names))
    assert read_splits(tmp_path / "split_1.json") == [Split(("a", "b"), ("c",))]
    folds = write(tmp_path / "folds.csv", "slide_id,fold", "a,0", "b,1", "c,2", "d,0")
    assert read_splits(folds)[0] == Split(("c",), ("b",), ("a", "d"))
    assert len(read_splits(folds)) == 3
    named = write(tmp_path / "named.csv", "slide_id,split", "a,train", "b,valid", "c,test")
    assert read_splits(named) == [Split(("a",), ("b",), ("c",))]
    ragged = write(tmp_path / "splits_0.csv", ",train,val,test", "0,a,c,d", "1,b,,")
    assert read_splits(ragged) == [Split(("a", "b"), ("c",), ("d",))]
    for name, content in (
        ("x.csv", "foo,bar\n1,2"),
        ("y.json", "[1]"),
        ("z.json", "{"),
        ("w.csv", "slide_id,split\na,??"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError):
            read_splits(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_splits(tmp_path / "absent.csv")


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_made_splits_keep_patients_together_and_classes_balanced(folds):
    labels = many(40)
    splits = make_splits(labels, folds=folds, seed=0)
    assert len(splits) == folds
    for split in check_splits(splits, labels):
        assert sorted(s for part in split for s in part) == sorted(labels.label)
        assert bool(split.val) == (folds != 2)
        for part in split:
            if part:
                counts = Counter(labels.label[s] for s in part)
                assert abs(counts[0] - counts[1]) <= 4
    if folds > 1:
        assert sorted(s for split in splits for s in split.test) == sorted(labels.label)
    assert make_splits(labels, folds=folds, seed=0) == splits
    assert make_splits(labels, folds=folds, seed=1) != splits


def test_splits_are_refused_where_they_would_mislead():
    labels = many(12)
    with pytest.raises(UserError, match="patient p0 is in train and in test"):
        check_splits([Split(("s0", "s2"), (), ("s1",))], labels)
    with pytest.raises(UserError, match="absent1, absent2, absent3 and 1 more"):
        check_splits([Split(("s0", "absent1", "absent2", "absent3", "absent4"))], labels)
    assert check_splits([Split(("s0", "absent"))], labels, ignore_missing=True) == [Split(("s0",))]
    assert check_splits([Split(("s0", "empty"))], labels, left_out=["empty"]) == [Split(("s0",))]
    with pytest.raises(UserError, match="no training slide"):
        check_splits([Split((), (), ("s0",))], labels)
    with pytest.raises(UserError, match="class 'a' has 3 cases, too few for 5 parts"):
        make_splits(labels, folds=5)
    with pytest.raises(UserError, match="at least two classes"):
        make_splits(many(8, classes=1))


def test_few_shots_a_class():
    labels = many(24)
    split = make_splits(labels, seed=0)[0]
    few = few_shot(split, labels, 3, seed=1)
    assert Counter(labels.label[s] for s in few.train) == {0: 3, 1: 3}
    assert (few.val, few.test) == (split.val, split.test)
    assert few_shot(split, labels, 3, seed=1) == few
    with pytest.raises(UserError, match="100 training slides per class"):
        few_shot(split, labels, 100, seed=1)


def note_of(tmp_path, *lines, options=LabelOptions()):
    return " | ".join(read_labels(write(tmp_path / "l.csv", *lines), options).notes)


@pytest.mark.reliability("labels that say that there is none", "left out and counted, or named a class by the user")
@pytest.mark.parametrize("word", ["unknown", "Not assessed", "not_reported", "[Not Available]"])
def test_labels_that_say_there_is_none_are_left_out(tmp_path, word):
    lines = ("slide_id,label", "a,tumour", "b,normal", f"c,{word}")
    labels = read_labels(write(tmp_path / "l.csv", *lines))
    assert labels.classes == ("normal", "tumour")
    assert "1 left out" in " ".join(labels.notes)
    if not word.startswith("["):
        options = LabelOptions(label_map=(f"{word}=not examined",))
        assert "not examined" in read_labels(tmp_path / "l.csv", options).classes


@pytest.mark.reliability("labels and patients spelled in two ways (0 and 0.0, P1 and p1, 1 and 001)", "said", cases=3)
def test_one_thing_in_two_spellings_is_said(tmp_path):
    assert "'0' and '0.0' count as 2 classes" in note_of(tmp_path, "slide_id,label", "a,0", "b,0.0", "c,1")
    for one, other in (("P1", "p1"), ("1", "001")):
        said = note_of(tmp_path, "slide_id,label,patient", f"a,x,{one}", f"b,y,{other}", "c,x,zz")
        assert f"count as different ones: {min(one, other)!r} and {max(one, other)!r}" in said
    assert "almost the same" not in note_of(tmp_path, "slide_id,label,patient", "a,x,P1", "b,y,P2")


def test_of_two_columns_the_surer_one_names_the_patient_and_is_said(tmp_path):
    lines = ("slide_id,label,case_id,patient_id", "a,x,c1,p1", "b,y,c2,p1", "c,x,c3,p2")
    file = write(tmp_path / "l.csv", *lines)
    labels = read_labels(file)
    assert labels.case == {"a": "p1", "b": "p1", "c": "p2"}
    assert "'patient_id', not of 'case_id'" in " ".join(labels.notes)
    assert read_labels(file, LabelOptions(patient_col="case_id")).case["b"] == "c2"
    assert "not of" not in note_of(tmp_path, "slide_id,label,case_id,patient_id", "a,x,c1,p1", "b,y,c2,p2")


def test_slides_in_no_part_are_counted(tmp_path):
    said = note_of(tmp_path, "slide_id,label,split", "a,x,train", "b,y,", "c,x,test")
    assert "1 of 3 slides have no value in the column 'split'" in said


def test_the_published_camelyon_split_never_trains_on_its_test():
    label = {f"{kind}_{i:03}": i % 2 for kind in ("normal", "test", "tumor") for i in range(20)}
    split = camelyon16(Labels(label, ("a", "b"), {slide: slide for slide in label}), seed=0)
    assert set(split.test) == {slide for slide in label if slide.startswith("test")}
    assert not set(split.test) & {*split.train, *split.val}
    assert len(split.train) + len(split.val) == 40
