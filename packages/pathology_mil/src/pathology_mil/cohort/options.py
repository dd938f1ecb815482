"""Options of a cohort: who is in it, and who trains, validates and tests. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Flag, Names, options

# Label merges implied by the published configurations, by their `dataset` and `n_class`.
# BRACS's seven lesions: 0-2 benign, 3-4 atypical, 5-6 malignant; with two classes, benign against the rest.
# The last classes of lct and lbc are merged into the fourth.
MERGES: dict[tuple[str, int], dict[str, str]] = {
    ("bracs", 3): {"0": "0", "1": "0", "2": "0", "3": "1", "4": "1", "5": "2", "6": "2"},
    ("bracs", 2): {"0": "0", "1": "0", "2": "0", "3": "1", "4": "1", "5": "1", "6": "1"},
    ("lct", 4): {"0": "0", "1": "1", "2": "2", "3": "3", "4": "3", "5": "3"},
    ("lbc", 4): {"0": "0", "1": "1", "2": "2", "3": "3", "4": "3", "5": "3"},
}


@options
class LabelOptions:
    """How the table of labels is read.

    Attributes:
        label_col: column of LABELS to learn.
        patient_col: column of the patient; default: patient_id, patient, subject … case_id, else TCGA barcodes.
        label_map: merge labels, '2=1,3=1'.
        ignore_missing: leave out labelled slides that have no features.
    """

    label_col: str = "label"
    patient_col: str | None = None
    label_map: Names = ()
    ignore_missing: Annotated[bool, Flag()] = False

    def __post_init__(self) -> None:
        for pair in self.label_map:
            if "=" not in pair:
                raise UserError(f"--label-map: {pair!r} is not of the form '2=1,3=1'")

    @property
    def merge(self) -> dict[str, str]:
        """Label → label."""
        merge = {}
        for pair in self.label_map:
            old, _, new = pair.partition("=")
            merge[old.strip()] = new.strip()
        return merge


@options
class SplitOptions:
    """Which slides train, validate and test, and what the data must be.

    Attributes:
        splits: split file or folder (CLAM, ACMIL, or slide_id,fold); default: those in the label table, else patient-grouped,
            stratified ones made here.
        folds: folds of cross-validation, where no splits are given.
        n_shot: training slides per class; 0 or less takes all.
        dataset: camelyon, bracs, lct: published splits or label merges.
        n_class: number of classes that the labels must have.
        feature_width: width that the features must have.
        pretrain: in a folder of ACMIL files, take patch_feats_pretrain_NAME.h5.
    """

    splits: Path | None = None
    folds: Annotated[int, AtLeast(1)] = 1
    n_shot: int = 0
    dataset: str | None = None
    n_class: Annotated[int | None, AtLeast(2)] = None
    feature_width: Annotated[int | None, AtLeast(1)] = None
    pretrain: str | None = None
