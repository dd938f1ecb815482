"""Tables of slide labels: which slide is what, whose it is, and which number a class gets."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from pathology_mil.cohort.options import LabelOptions
from pathology_mil.slides.formats import SLIDE_SUFFIXES

_ENDINGS = tuple(sorted(SLIDE_SUFFIXES | {".h5", ".hdf5", ".pt"}))


@dataclass(frozen=True)
class Labels:
    """Slides with their class numbers.

    Attributes:
        label: slide id → class number.
        classes: names of the classes, by number, in sorted order (or that of a given list).
        case: slide id → patient; a slide without one is its own case.
        split: slide id → "train", "val" or "test", where the table says so.
        notes: what a person should know about how the table was read.
    """

    label: Mapping[str, int]
    classes: tuple[str, ...]
    case: Mapping[str, str]
    split: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def patients_of(self, slides: Sequence[str]) -> list[str]:
        """Whose each slide is."""
        return [self.case[slide] for slide in slides]

    def only(self, slides: Collection[str]) -> "Labels":
        """The same table without other slides; the classes stay."""
        keep = set(slides)
        return Labels(
            {s: n for s, n in self.label.items() if s in keep},
            self.classes,
            {s: c for s, c in self.case.items() if s in keep},
            {s: w for s, w in self.split.items() if s in keep},
            self.notes,
        )


def slide_id(name: str) -> str:
    """The id that a table means by a file name: without folder and without the ending of a slide or feature file."""
    name = str(name).strip().replace("\\", "/").rsplit("/", 1)[-1]
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def read_labels(
    path: Path,
    options: LabelOptions = LabelOptions(),
    *,
    merge: Mapping[str, str] | None = None,
    classes: Collection[str] | None = None,
) -> Labels:
    """Reads a CSV with the columns ``slide_id,label`` and, where there are any, ``case_id`` and ``split`` (or ``split_info``).

    Args:
        options: which column, and how labels are merged.
        merge: label → label, where the options name none (for example BRACS's seven to three).
        classes: names in the order of their numbers; default: sorted (as numbers if all are), so that no order of rows can swap them.

    Raises:
        UserError: no such file or column, a slide with two labels, a label outside `classes`.
    """
    import pandas as pd

    label_col = options.label_col
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except OSError as error:
        raise UserError(f"cannot read the labels {path}: {error.strerror}") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        raise UserError(
            f"{path.name} is not a CSV table", "its columns are slide_id,label and, if known, case_id"
        ) from None
    columns = [str(c).strip() for c in table.columns]
    table.columns = columns
    for column in ("slide_id", label_col):
        if column not in table:
            there = ", ".join(c for c in columns if c)
            hint = (
                "--label-col names the column to learn"
                if column == label_col
                else "rename the column of slide names to slide_id"
            )
            raise UserError(f"{path.name} has no column {column!r} (it has {there})", hint)
    merge = {str(k): str(v) for k, v in (options.merge or merge or {}).items()}
    given: dict[str, str] = {}
    cases: dict[str, str] = {}
    split: dict[str, str] = {}
    without = 0
    where = next((c for c in ("split", "split_info") if c in table), None)
    records: list[Any] = table.to_dict(orient="records")
    for row in records:
        slide, label = slide_id(row["slide_id"]), row[label_col].strip()
        label = merge.get(label, label)
        if not label:
            without += 1
            continue
        if given.setdefault(slide, label) != label:
            raise UserError(f"{path.name}: slide {slide} has two labels, {given[slide]!r} and {label!r}")
        cases[slide] = str(row.get("case_id") or "").strip() or slide
        if where and row[where].strip():
            split[slide] = row[where].strip().lower()
    if not given:
        raise UserError(f"{path.name}: no slide has a value in the column {label_col!r}")
    names = sorted_classes(set(given.values())) if classes is None else tuple(map(str, classes))
    if unknown := sorted(set(given.values()) - set(names)):
        raise UserError(f"{path.name}: labels {', '.join(unknown)} are none of the classes {', '.join(names)}")
    notes = (f"{without} rows without a label were left out",) if without else ()
    number = {name: i for i, name in enumerate(names)}
    return Labels({s: number[label] for s, label in given.items()}, names, cases, split, notes)


def labels_of_bags(
    numbers: Mapping[str, int | None], merge: Mapping[str, str] | None = None, classes: Sequence[str] | None = None
) -> Labels:
    """The table that an ACMIL feature file carries itself: the class number of every slide's group.

    Args:
        merge: number → number, applied first.
        classes: names that are known already (a model's): a number stands for the class of that name, else for the class of that number.

    Raises:
        UserError: a slide has none, or one that is none of `classes`.
    """
    if missing := [s for s, n in numbers.items() if n is None]:
        raise UserError(
            f"no labels: neither a CSV was given nor does {missing[0]} carry a class number", "--labels names a CSV"
        )
    text = {s: (merge or {}).get(str(n), str(n)) for s, n in numbers.items()}
    names = sorted_classes(set(text.values())) if classes is None else tuple(classes)
    if not set(text.values()) <= set(names):
        if unknown := sorted({t for t in text.values() if not 0 <= int(t) < len(names)}):
            raise UserError(f"class numbers {', '.join(unknown)} are none of the classes {', '.join(names)}")
        text = {s: names[int(t)] for s, t in text.items()}
    return Labels({s: names.index(t) for s, t in text.items()}, names, {s: s for s in text})


def sorted_classes(names: Collection[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: numerically if all are integers, else by their characters."""
    if all(re.fullmatch(r"-?\d+", n) for n in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
