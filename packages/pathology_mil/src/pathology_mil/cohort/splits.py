"""Which slides train, validate and test a model: every split file in use, and patient-grouped stratified folds of our own."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, few
from core_runtime.folders import write_text
from core_runtime.tables import Table, read_table
from pathology_mil.cohort.labels import Labels
from pathology_mil.slides.formats import slide_id

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Slide ids of the three parts; `val` and `test` may be empty."""

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __iter__(self) -> Any:
        return iter((self.train, self.val, self.test))


def read_splits(path: Path | str) -> list[Split]:
    """The folds of a file or folder.

    Understands CLAM's ``splits_{i}.csv`` (ragged columns train, val, test) and ``splits_{i}_bool.csv``, a folder of them, ACMIL's JSON
    (``train_names``, ``val_names``, ``test_names``), and a CSV with ``slide_id`` and ``fold`` (fold i tests, the next one validates)
    or ``split``.

    Raises:
        UserError: no such path, or none of these.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in path.iterdir() if re.fullmatch(r"splits?_\d+\.(csv|json)", file.name)]
        if not files:
            raise UserError(f"{path} holds no splits_0.csv, splits_1.csv … (or split_1.json …)")
        files.sort(key=lambda file: int(re.findall(r"\d+", file.name)[-1]))  # 2 before 10
        splits = []
        for file in files:
            splits += read_splits(file)
        return splits
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder of splits")
    try:
        if path.suffix == ".json":
            return [_from_json(json.loads(path.read_text(encoding="utf-8")))]
        return _from_csv(path)
    except (AttributeError, KeyError, TypeError, ValueError):
        hint = "known: CLAM's splits_0.csv, ACMIL's split_1.json, or a CSV with slide_id and fold or split"
        raise UserError(f"{path.name} is not a known table of splits", hint) from None


def _from_json(content: Mapping[str, Any]) -> Split:
    parts = []
    for part in PARTS:
        names = content.get(f"{part}_names", [])
        parts.append(tuple(map(slide_id, names)))
    return Split(*parts)


def _from_csv(path: Path) -> list[Split]:
    table = read_table(path)
    slide = table.column("slide_id", required=False)
    part, fold = table.column("split", required=False), table.column("fold", required=False)
    if slide is not None and (part is not None or fold is not None):
        column = str(fold)
        if part is not None:
            column = part
        entries = {}
        for row in table:
            name, value = row[slide], row[column]
            if name and value:
                entries[slide_id(name)] = value
        _refuse_short_rows(table)
        if part is not None:
            return [from_names(entries)]
        # pandas writes a column of integers with a gap as 1.0, 2.0, …
        fold_of = {name: int(float(value)) for name, value in entries.items()}
        return from_folds(fold_of)
    columns = {part: table.column(part, required=part == "train") for part in PARTS}
    rows = list(table)
    _refuse_short_rows(table)
    marks = set()
    for row in rows:
        mark = row.get(columns["train"])
        if mark is not None:
            marks.add(mark.lower())
    is_boolean = bool(marks) and marks <= {"true", "false"}  # CLAM's splits_0_bool.csv: a row per slide
    parts = []
    for column in columns.values():
        members = []
        for row in rows:
            cell = row.get(column)
            if is_boolean:
                if cell is not None and cell.lower() == "true":
                    members.append(str(row[table.columns[0]]))
            elif cell is not None:  # CLAM's ragged columns: the shorter ones end in empty cells
                members.append(cell)
        parts.append(tuple(map(slide_id, members)))
    return [Split(*parts)]


def _refuse_short_rows(table: Table) -> None:
    """A split that lost rows is another split: nothing but blank rows may be left out."""
    for line, reason in table.left_out.items():
        if reason != "blank":
            raise UserError(f"{table.path.name}, line {line}: a row {reason}", "give each row a cell for every column")


def from_names(parts: Mapping[str, str]) -> Split:
    """A split from slide → "train", "val" (or "valid", "validation") or "test"."""
    short = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
    members: dict[str, list[str]] = {part: [] for part in (*PARTS, "")}
    for slide, word in parts.items():
        part = word.strip().lower()
        part = short.get(part, part)
        if part not in members:
            raise ValueError(f"unknown part {part!r}")
        members[part].append(slide)
    return Split(*(tuple(members[part]) for part in PARTS))


def from_folds(folds: Mapping[str, int]) -> list[Split]:
    """One split per fold: the fold tests, the next one validates (from three folds on), the others train."""
    numbers = sorted(set(folds.values()))
    if len(numbers) < 2:
        raise UserError("one fold cannot be split: at least two are needed")
    splits = []
    for i, test in enumerate(numbers):
        part_of = dict.fromkeys(numbers, "train")
        if len(numbers) > 2:
            part_of[numbers[(i + 1) % len(numbers)]] = "val"
        part_of[test] = "test"
        splits.append(from_names({slide: part_of[fold] for slide, fold in folds.items()}))
    return splits


def make_splits(labels: Labels, *, folds: int = 1, held_out: float = 0.2, seed: int = 0) -> list[Split]:
    """Patient-grouped splits, stratified by class: all slides of a case are in the same part.

    Args:
        folds: k ≥ 2 gives k-fold cross-validation (`from_folds`); 1 gives one split that holds out `held_out` of the cases for
            validation and as many for the test.
        held_out: that share; a class with fewer than three cases cannot be in all three parts, and the test takes precedence.
        seed: of the shuffle.

    Raises:
        UserError: a class has fewer cases than folds, or fewer than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    slides = sorted(labels.label)  # not in the table's order, so that the same slides give the same splits
    classes = [labels.label[slide] for slide in slides]
    groups = [labels.case[slide] for slide in slides]
    # A case with slides of two classes counts for both.
    cases = Counter(number for _, number in set(zip(groups, classes, strict=True)))
    fewest, rarest = min((count, labels.classes[number]) for number, count in cases.items())
    fewest_parts = max(2, folds)
    if len(cases) < 2:
        raise UserError(f"every slide is {labels.classes[classes[0]]!r}: at least two classes are needed to learn")
    if fewest < fewest_parts:
        raise UserError(
            f"class {rarest!r} has {fewest} cases, too few for {fewest_parts} parts",
            "give your own --splits, or fewer --folds",
        )
    parts = folds
    if folds < 2:
        parts = min(fewest, max(2, round(1 / held_out)))
    # without a shuffle the folds would follow the names, and with them often the sites
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    fold_of = {}
    for fold, (_, test) in enumerate(splitter.split(slides, classes, groups)):
        for index in test:
            fold_of[slides[int(index)]] = fold
    splits = from_folds(fold_of)
    if folds < 2:
        return splits[:1]
    return splits


def camelyon16(labels: Labels, seed: int) -> Split:
    """Slides named test_### test; a tenth of the others validates, stratified (the published setting)."""
    test = tuple(slide for slide in labels.label if "test" in slide)
    others = make_splits(labels.only(set(labels.label) - set(test)), folds=10, seed=seed)[0]
    return Split((*others.train, *others.val), others.test, test)


def check_splits(
    splits: Sequence[Split], labels: Labels, *, ignore_missing: bool = False, left_out: Collection[str] = ()
) -> list[Split]:
    """The splits restricted to labelled slides; `left_out` are slides that are known to be absent.

    Raises:
        UserError: slides without a label (unless ignored), a slide or a patient in two parts, no slide to train on.
    """
    checked = []
    for i, split in enumerate(splits):
        missing = []
        for part in split:
            missing += [slide for slide in part if slide not in labels.label and slide not in left_out]
        if missing and not ignore_missing:
            raise UserError(
                f"the splits name {few(missing)}, without a label or features", "--ignore-missing leaves them out"
            )
        usable = Split(*(_labelled(part, labels) for part in split))
        # One patient on both sides is the field's commonest leak: slides of one tumour are nearly the same picture.
        part_of: dict[str, str] = {}
        for name, slides in zip(PARTS, usable, strict=True):
            for slide in slides:
                patient = labels.case[slide]
                other = part_of.setdefault(patient, name)
                if other != name:
                    raise UserError(f"split {i}: patient {patient} is in {other} and in {name}")
        if not usable.train:
            raise UserError(f"split {i} has no training slide that is labelled and encoded")
        checked.append(usable)
    return checked


def _labelled(slides: Sequence[str], labels: Labels) -> tuple[str, ...]:
    return tuple(slide for slide in slides if slide in labels.label)


def few_shot(split: Split, labels: Labels, shots: int, seed: int) -> Split:
    """The split with `shots` training slides per class, drawn under `seed`.

    Raises:
        UserError: a class has fewer.
    """
    import random

    drawn: list[str] = []
    for number, name in enumerate(labels.classes):
        of_class = sorted(slide for slide in split.train if labels.label[slide] == number)
        if len(of_class) < shots:
            raise UserError(f"{shots} training slides per class were requested, class {name!r} has {len(of_class)}")
        # A draw of its own for each class: another class more or less leaves it as it is.
        drawn += random.Random(f"{seed} {name}").sample(of_class, shots)
    return Split(tuple(sorted(drawn)), split.val, split.test)


def write_splits(folder: Path, splits: Sequence[Split], labels: Labels) -> None:
    """Writes CLAM's three files per fold: ``splits_{i}.csv``, ``splits_{i}_bool.csv``, ``splits_{i}_descriptor.csv``."""
    for i, split in enumerate(splits):
        # read as columns: rows of the shorter parts end in empty cells
        ragged = [[row, *cells] for row, cells in enumerate(zip_longest(*split, fillvalue=""))]
        write_text(folder / f"splits_{i}.csv", _table_of_parts(ragged))
        part_of = {}
        for name, slides in zip(PARTS, split, strict=True):
            part_of |= dict.fromkeys(slides, name)
        memberships = []
        for slide in sorted(part_of):
            memberships.append([slide, *(part_of[slide] == name for name in PARTS)])
        write_text(folder / f"splits_{i}_bool.csv", _table_of_parts(memberships))
        counts = [Counter(labels.label[slide] for slide in slides) for slides in split]
        descriptors = []
        for number, name in enumerate(labels.classes):
            in_parts = [count[number] for count in counts]
            descriptors.append([name, *in_parts])
        write_text(folder / f"splits_{i}_descriptor.csv", _table_of_parts(descriptors))


def _table_of_parts(rows: Iterable[Sequence[Any]]) -> str:
    """CSV with an unnamed first column, as pandas writes an index, and one column per part."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *PARTS])
    writer.writerows(rows)
    return text.getvalue()
