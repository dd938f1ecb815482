"""Which slides train, choose and judge a model: every split file in use, and patient-grouped stratified folds of our own."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        UserError: nothing there, or none of these.
    """
    path = Path(path)
    if path.is_dir():
        files = [p for p in path.iterdir() if re.fullmatch(r"splits?_\d+\.(csv|json)", p.name)]
        if not files:
            raise UserError(f"{path} holds no splits_0.csv, splits_1.csv … (or split_1.json …)")
        return [s for p in sorted(files, key=lambda p: int(re.findall(r"\d+", p.name)[-1])) for s in read_splits(p)]
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder of splits")
    try:
        if path.suffix == ".json":
            return [_from_json(json.loads(path.read_text(encoding="utf-8")))]
        return _from_csv(path)
    except (AttributeError, KeyError, TypeError, ValueError):
        hint = "known: CLAM's splits_0.csv, ACMIL's split_1.json, or a CSV with slide_id and fold or split"
        raise UserError(f"{path.name} is no table of splits that is known here", hint) from None


def _from_json(content: Mapping[str, Any]) -> Split:
    return Split(*(tuple(slide_id(n) for n in content.get(f"{part}_names", [])) for part in PARTS))


def _from_csv(path: Path) -> list[Split]:
    table = read_table(path)
    slide = table.column("slide_id", required=False)
    part, fold = (table.column(name, required=False) for name in ("split", "fold"))
    if slide is not None and (part is not None or fold is not None):
        column = part if part is not None else str(fold)
        entries = {slide_id(name): value for row in table if (name := row[slide]) and (value := row[column])}
        _refuse_short_rows(table)
        if part is not None:
            return [from_names(entries)]
        return from_folds({name: int(float(value)) for name, value in entries.items()})
    columns = {name: table.column(name, required=name == "train") for name in PARTS}
    rows = list(table)
    _refuse_short_rows(table)
    cells = {name: [row.get(column) for row in rows] for name, column in columns.items()}
    written = {value.lower() for value in cells["train"] if value is not None}
    if written and written <= {"true", "false"}:  # CLAM's splits_0_bool.csv
        slides = [slide_id(str(row[table.columns[0]])) for row in rows]
        chosen = [
            tuple(name for name, value in zip(slides, cells[part], strict=True) if str(value).lower() == "true")
            for part in PARTS
        ]
        return [Split(*chosen)]
    return [Split(*(tuple(slide_id(name) for name in cells[part] if name is not None) for part in PARTS))]


def _refuse_short_rows(table: Table) -> None:
    """A split that lost rows is another split: nothing but blank rows may be left out."""
    odd = {line: reason for line, reason in table.left_out.items() if reason != "blank"}
    if odd:
        line, reason = next(iter(odd.items()))
        raise UserError(f"{table.path.name}, line {line}: a row {reason}", "each row has a cell for every column")


def from_names(parts: Mapping[str, str]) -> Split:
    """A split from slide → "train", "val" (or "valid", "validation") or "test"."""
    short = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
    named = {s: short.get(w.strip().lower(), w.strip().lower()) for s, w in parts.items()}
    if unknown := set(named.values()) - {*PARTS, ""}:
        raise ValueError(f"unknown parts {unknown}")
    return Split(*(tuple(s for s, w in named.items() if w == part) for part in PARTS))


def from_folds(folds: Mapping[str, int]) -> list[Split]:
    """A split a fold: it tests, the next one validates (from three folds on), the others train."""
    numbers = sorted(set(folds.values()))
    if len(numbers) < 2:
        raise UserError("one fold cannot be split: at least two are needed")
    splits = []
    for i, test in enumerate(numbers):
        val = numbers[(i + 1) % len(numbers)] if len(numbers) > 2 else None
        part = {s: "test" if f == test else "val" if f == val else "train" for s, f in folds.items()}
        splits.append(from_names(part))
    return splits


def make_splits(labels: Labels, *, folds: int = 1, held_out: float = 0.2, seed: int = 0) -> list[Split]:
    """Patient-grouped splits, stratified by class: all slides of a case stand on one side.

    Args:
        folds: k ≥ 2 gives k-fold cross-validation (`from_folds`); 1 gives one split that holds out `held_out` of the cases for
            validation and as many for the test.
        held_out: that share; a class with fewer than three cases cannot stand in all three parts, and the test goes first.
        seed: of the shuffle.

    Raises:
        UserError: a class has fewer cases than folds, or fewer than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    slides = sorted(labels.label)
    classes, groups = [labels.label[s] for s in slides], [labels.case[s] for s in slides]
    cases: Counter[int] = Counter()
    for case_class in {(labels.case[s], labels.label[s]) for s in slides}:
        cases[case_class[1]] += 1
    fewest, rarest = min((n, labels.classes[c]) for c, n in cases.items())
    wanted = max(2, folds)
    if len(cases) < 2:
        raise UserError(f"every slide is {labels.classes[classes[0]]!r}: at least two classes are needed to learn")
    if fewest < wanted:
        raise UserError(
            f"class {rarest!r} has {fewest} cases, too few for {wanted} parts",
            "give your own --splits, or fewer --folds",
        )
    parts = folds if folds > 1 else min(fewest, max(2, round(1 / held_out)))
    made = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    number = {}
    for i, (_, test) in enumerate(made.split(slides, classes, groups)):
        number |= {slides[int(j)]: i for j in test}
    splits = from_folds(number)
    return splits if folds > 1 else splits[:1]


def camelyon16(labels: Labels, seed: int) -> Split:
    """Slides named test_### test; of the others a tenth validates, stratified (the published setting)."""
    test = tuple(slide for slide in labels.label if "test" in slide)
    others = make_splits(labels.only(set(labels.label) - set(test)), folds=10, seed=seed)[0]
    return Split((*others.train, *others.val), others.test, test)


def check_splits(
    splits: Sequence[Split], labels: Labels, *, ignore_missing: bool = False, left_out: Collection[str] = ()
) -> list[Split]:
    """The splits restricted to labelled slides; `left_out` are slides whose absence is known.

    Raises:
        UserError: slides without a label (unless ignored), a slide or a patient in two parts, nothing to train on.
    """
    checked = []
    for i, split in enumerate(splits):
        names = [s for part in split for s in part]
        missing = [s for s in names if s not in labels.label and s not in left_out]
        if missing and not ignore_missing:
            raise UserError(
                f"the splits name {few(missing)}, which the labels or features lack", "--ignore-missing leaves them out"
            )
        parts = [tuple(s for s in part if s in labels.label) for part in split]
        owner: dict[str, str] = {}
        for name, part in zip(PARTS, parts, strict=True):
            for slide in part:
                if owner.setdefault(labels.case[slide], name) != name:
                    raise UserError(
                        f"split {i}: patient {labels.case[slide]} is in {owner[labels.case[slide]]} and in {name}"
                    )
        if not parts[0]:
            raise UserError(f"split {i} has no training slide that is labelled and encoded")
        checked.append(Split(*parts))
    return checked


def few_shot(split: Split, labels: Labels, shots: int, seed: int) -> Split:
    """The split with `shots` training slides a class, drawn under `seed`.

    Raises:
        UserError: a class has fewer.
    """
    import random

    kept: list[str] = []
    for number, name in enumerate(labels.classes):
        there = sorted(s for s in split.train if labels.label[s] == number)
        if len(there) < shots:
            raise UserError(f"{shots} training slides a class were asked for, class {name!r} has {len(there)}")
        kept += random.Random(f"{seed} {name}").sample(there, shots)
    return Split(tuple(sorted(kept)), split.val, split.test)


def write_splits(folder: Path, splits: Sequence[Split], labels: Labels) -> None:
    """Writes CLAM's three files a fold: ``splits_{i}.csv``, ``splits_{i}_bool.csv``, ``splits_{i}_descriptor.csv``."""
    for i, split in enumerate(splits):
        longest = max(len(part) for part in split)
        ragged = [[part[row] if row < len(part) else "" for part in split] for row in range(longest)]
        write_text(folder / f"splits_{i}.csv", _csv(["", *PARTS], ([row, *cells] for row, cells in enumerate(ragged))))
        where = {s: name for name, part in zip(PARTS, split, strict=True) for s in part}
        rows = ([s, *(where[s] == name for name in PARTS)] for s in sorted(where))
        write_text(folder / f"splits_{i}_bool.csv", _csv(["", *PARTS], rows))
        counts = [Counter(labels.label[s] for s in part) for part in split]
        rows = ([name, *(c[n] for c in counts)] for n, name in enumerate(labels.classes))
        write_text(folder / f"splits_{i}_descriptor.csv", _csv(["", *PARTS], rows))


def _csv(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
