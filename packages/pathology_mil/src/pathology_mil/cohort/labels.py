"""Tables of slide labels: the label and the patient of each slide, and the number of each class."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, few
from core_runtime.tables import Table, near_equal, read_table
from pathology_mil.cohort.options import LabelOptions
from pathology_mil.slides.formats import slide_id

# The surest first: a "case" is a patient in CLAM's tables, and an accession of a patient in others.
_PATIENT_COLUMNS = (
    "patient_id", "patient", "subject_id", "subject", "participant_id", "participant", "case_submitter_id", "case_id", "case",
)  # fmt: skip
# Labels that say that there is no label.
_NO_LABEL = frozenset({
    "unknown", "not known", "not available", "not assessed", "not evaluated", "not reported", "not done", "not determined", "undetermined",
    "missing", "pending", "tbd", "to be determined",
})  # fmt: skip
# A barcode's first three parts (project, site, participant) name the patient: TCGA-AA-0001 of TCGA-AA-0001-01Z-00-DX1.
_TCGA = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?=-|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """Slides with their class numbers.

    Attributes:
        label: slide id → class number.
        classes: names of the classes, by number, in sorted order (or that of a given list).
        case: slide id → patient; a slide of unknown patient is its own case.
        split: slide id → "train", "val" or "test", if the table has such a column.
        notes: what a reader should know about how the table was read.
        known: slides whose patient is known from the table or from their name.
    """

    label: Mapping[str, int]
    classes: tuple[str, ...]
    case: Mapping[str, str]
    split: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.label)

    def patients_of(self, slides: Sequence[str]) -> list[str]:
        """The patient of each slide."""
        return [self.case[slide] for slide in slides]

    def known_patients(self, slides: Sequence[str]) -> list[str]:
        """The patients of slides, as far as the table or the slides' names tell them."""
        return sorted({self.case[slide] for slide in slides if slide in self.known})

    def only(self, slides: Collection[str]) -> "Labels":
        """The same table for these slides only; the classes stay."""
        keep = set(slides)
        return Labels(
            _restricted(self.label, keep),
            self.classes,
            _restricted(self.case, keep),
            _restricted(self.split, keep),
            self.notes,
            self.known & keep,
        )


def _restricted(table: Mapping[str, Any], slides: Collection[str]) -> dict[str, Any]:
    return {slide: value for slide, value in table.items() if slide in slides}


def read_labels(
    path: Path,
    options: LabelOptions = LabelOptions(),
    *,
    merge: Mapping[str, str] | None = None,
    classes: Collection[str] | None = None,
) -> Labels:
    """Reads a table with the columns ``slide_id,label`` and, optionally, patients and ``split`` (or ``split_info``).

    Args:
        options: which columns, and how labels are merged.
        merge: label → label, used where the options name none (for example BRACS's seven classes to three).
        classes: names in the order of their numbers; default: sorted (numerically if all are integers), so that the order of rows cannot
            swap them.

    Raises:
        UserError: no such file or column, a slide with two labels or patients, a label outside `classes`.
    """
    table = read_table(path)
    slide_column = table.column("slide_id")
    label_column = table.column(options.label_col)
    patient_column = _patient_column(table, options.patient_col)
    split_column = table.column("split", "split_info", required=False)
    merged = {str(old): str(new) for old, new in (options.merge or merge or {}).items()}
    # A slide may have several rows (one per block or section); they must agree.
    label: dict[str, str] = {}
    patient: dict[str, str] = {}
    split: dict[str, str] = {}
    for row in table:
        name, value = row[str(slide_column)], row[str(label_column)]
        if name is None:
            table.leave_out(row, "without a slide")
            continue
        if value is None:
            table.leave_out(row, "without a label")
            continue
        slide = slide_id(name)
        value = merged.get(value, value)
        if " ".join(re.split(r"[\s_\-]+", value.casefold())) in _NO_LABEL:
            table.leave_out(row, f"labelled {value!r}, which is no label (--label-map '{value}=NAME' makes it a class)")
            continue
        if label.setdefault(slide, value) != value:
            raise UserError(f"{path.name}: slide {slide} has two labels, {label[slide]!r} and {value!r}")
        owner = row.get(patient_column) or tcga_patient(slide)
        if owner is not None and patient.setdefault(slide, owner) != owner:
            raise UserError(f"{path.name}: slide {slide} has two patients, {patient[slide]!r} and {owner!r}")
        part = row.get(split_column)
        if part is not None:
            split[slide] = part.lower()
    if not label:
        raise UserError(f"{path.name}: no slide has a value in the column {label_column!r}", table.account())
    if classes is None:
        names = sorted_classes(set(label.values()))
    else:
        names = tuple(map(str, classes))
    unknown = sorted(set(label.values()) - set(names))
    if unknown:
        raise UserError(f"{path.name}: labels {', '.join(unknown)} are not among the classes {', '.join(names)}")
    numbers, cases = {}, {}
    for slide, value in label.items():
        numbers[slide] = names.index(value)
        cases[slide] = patient.get(slide, slide)  # a slide of unknown patient is its own case
    notes = [
        *table.notes,
        table.account(),
        *_spelling_notes(label.values()),
        *_patient_column_notes(table, patient_column),
        *_patient_notes(label, patient),
    ]
    without_part = len(label) - len(split.keys() & label.keys())
    if split and without_part:
        notes.append(
            f"{without_part} of {len(label)} slides have no value in the column {split_column!r}: they are in no part"
        )
    return Labels(numbers, names, cases, split, tuple(notes), frozenset(patient))


def _patient_column(table: Table, asked_for: str | None) -> str | None:
    """The column that the user names, else one of the usual ones, else none."""
    if asked_for is not None:
        return table.column(asked_for)
    return table.column(*_PATIENT_COLUMNS, required=False)


def _patient_column_notes(table: Table, column: str | None) -> Iterable[str]:
    """Which column names the patients, where several could."""
    if column is None:
        return
    others = {table.column(name, required=False) for name in _PATIENT_COLUMNS} - {column, None}
    for other in sorted(map(str, others)):
        pairs = {(row[column], row[other]) for row in table}
        # the same patients under other names are nothing to say
        if not len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs}):
            yield f"patients are those of the column {column!r}, not of {other!r} (--patient-col names another)"


def tcga_patient(slide: str) -> str | None:
    """The patient of a TCGA barcode (TCGA-AA-0001-01Z-…), or None."""
    match = _TCGA.match(slide)
    if match is None:
        return None
    return match.group(0).upper()


def _spelling_notes(labels: Iterable[str]) -> Iterable[str]:
    """Classes whose names are almost the same, and the option that makes them one."""
    for group in near_equal(sorted(set(labels))):
        pairs = ",".join(f"{name}={group[0]}" for name in group[1:])
        yield f"{' and '.join(map(repr, group))} count as {len(group)} classes: if they are one, --label-map '{pairs}'"


def _patient_notes(slides: Collection[str], patient: Mapping[str, str]) -> Iterable[str]:
    """Whether patients are known: where they are not, slides of one patient may land on both sides of a split."""
    similar = near_equal(sorted(set(patient.values())))
    if similar:
        names = few([" and ".join(map(repr, group)) for group in similar])
        yield f"patients whose names are almost the same count as different ones: {names}: if they are one, spell them alike"
    unknown = [slide for slide in slides if slide not in patient]
    if unknown:
        fact = f"the patients of {len(unknown)} of {len(slides)} slides are not known"
        if len(unknown) == len(slides):
            fact = "no slide's patient is known"
        yield f"{fact}: each counts as a patient of its own (--patient-col names the column)"


def labels_of_bags(
    numbers: Mapping[str, int | None], merge: Mapping[str, str] | None = None, classes: Sequence[str] | None = None
) -> Labels:
    """The labels stored in an ACMIL feature file itself: the class number of every slide's group.

    Args:
        merge: number → number, applied first.
        classes: known names (a model's): a number stands for the class of that name, else for the class of that number.

    Raises:
        UserError: a slide has none, or one that is not among `classes`.
    """
    name_of: dict[str, str] = {}
    for slide, number in numbers.items():
        if number is None:
            raise UserError(f"no labels: no CSV was given, and {slide} has no class number", "--labels names a CSV")
        name_of[slide] = (merge or {}).get(str(number), str(number))
    if classes is None:
        names = sorted_classes(set(name_of.values()))
    else:
        names = tuple(classes)
    if not set(name_of.values()) <= set(names):
        # The numbers are not names of the model's classes, so they must be positions in its list.
        unknown = sorted({name for name in name_of.values() if not 0 <= int(name) < len(names)})
        if unknown:
            raise UserError(f"class numbers {', '.join(unknown)} are not among the classes {', '.join(names)}")
        name_of = {slide: names[int(name)] for slide, name in name_of.items()}
    label = {slide: names.index(name) for slide, name in name_of.items()}
    return Labels(label, names, {slide: slide for slide in name_of})


def sorted_classes(names: Collection[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: numerically if all are integers, else alphabetically."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):  # sorted as text, 10 would come before 2
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
