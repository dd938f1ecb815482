"""The meaning of event labels: seizure, its beginning, its end, no seizure, or not understood.

Labels are as the field writes them: "sz", "SZ1", "Seizure", "seizure_begin", "focal aware seizure", SzCORE's "sz_foc_ia", TUH's "fnsz", ILAE's "FBTCS",
HED tags, BrainVision's "Comment/seizure". A label that is not understood is never taken as "no seizure".
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, options

Meaning = Literal["seizure", "begin", "end", "none", "other"]

_SEIZURE_WORD = re.compile(r"^(sz|seiz\w*|ictal|(fn|gn|sp|cp|ab|tn|cn|tc|at|my)sz|gtcs?|fbtcs|fias|crise|anfall)$")
_RESEMBLES = re.compile(
    r"^sz|sz$|seiz|ictal|epilep|convuls|crise|crisi|anfall|krampf|absence|tonic|clonic|myoclon|spasm|paroxysm"
    r"|^(auras?|attacks?|fits?|fas|fia|fbtc|eses|napad\w*|приступ\w*|発作|发作)$"
)
_BEGIN = frozenset({"start", "starts", "started", "onset", "begin", "begins", "beginning", "beg"})
_END = frozenset({"end", "ends", "ended", "stop", "stops", "offset", "ending"})
# Only as the last word: "sz on", but "seizure on video"; "sz over", but "seizure over left temporal".
_BEGIN_LAST, _END_LAST = frozenset({"on"}), frozenset({"off", "over"})
_AROUND = frozenset({"bckg", "background", "interictal", "preictal", "postictal"})
_NONE = _AROUND | {"none"}
# These deny the seizure that follows ("no seizure", "between the seizures") …
_DENIES_NEXT = frozenset({"no", "non", "not", "without", "before", "after", "between", "pre", "post", "inter"})
_DENIES_NEXT |= {"kein", "keine", "keinen", "sans"} | _AROUND
_ARTICLES = frozenset({"a", "an", "any", "the", "further", "more"})
# … and these the one before ("seizure-free").
_DENIES_BEFORE = frozenset({"free", "absent"})
# Of another word they say what kind of seizure it is: "non-motor seizure", "seizure without loss of awareness".
_QUALIFIES = frozenset({"non", "without", "sans"})
# "+Seizure" and "-Seizure" are its beginning and its end; "- seizure" is an entry of a list.
_SIGN = re.compile(r"^\s*([+\-−])(?=\w)")
# With these a seizure's name says something else, or nothing certain.
_ODD = frozenset(
    {"possible", "probable", "suspected", "maybe", "likely", "like", "pseudo", "psychogenic", "pnes", "nonepileptic"}
)
_NOT_EPILEPTIC = frozenset({"epileptic", "epileptiform", "electrographic"})  # after "non"
_ODD |= {
    "zone",
    "soz",
    "channel",
    "channels",
    "button",
    "alarm",
    "detector",
    "detection",
    "medication",
    "med",
    "drug",
    "log",
    "diary",
}
_ODD |= {"test", "question", "history", "risk", "threshold", "rescue"}


@options
class LabelOptions:
    """How marked seizures are read.

    Attributes:
        label_map: table with the columns label and meaning (seizure, begin, end, none or other), for labels that are not understood.
        seizure_length: seconds that a seizure lasts if its end is not marked; default: until the next onset, or the end of the recording.
    """

    label_map: Path | None = None
    seizure_length: Annotated[float | None, AtLeast(1)] = None


def words_of(label: str) -> list[str]:
    """The words of a label in lower case: "SZ1_start" → sz, 1, start."""
    if label.count("/") == 1:  # BrainVision: "Comment/seizure"; HED tags have more levels
        label = label.rpartition("/")[2]
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # camel case: "seizureOnset"
    return re.findall(r"[^\W\d_]+|\d+|\?", spaced.casefold())


def meaning_of(label: str, label_map: Mapping[str, Meaning] | None = None) -> Meaning | None:
    """The meaning of a label; None: not understood.

    Args:
        label_map: labels (in lower case) that the user explained.
    """
    mapped = (label_map or {}).get(label.strip().casefold())
    if mapped:
        return mapped
    words = words_of(label)
    unique = set(words)
    if not any(_SEIZURE_WORD.match(word) for word in words):
        return "none" if words and unique <= _NONE else None
    # What makes a seizure doubtful comes before what denies it: "no possible seizure" is not understood.
    if "?" in unique or unique & _ODD or _non_epileptic(words):
        return None
    denied = _denied(words)
    if denied is None:
        return None
    if denied:
        return "none"
    last = next((word for word in reversed(words) if not word.isdigit()), "")
    begins = bool(unique & _BEGIN) or last in _BEGIN_LAST
    ends = bool(unique & _END) or last in _END_LAST
    sign = _SIGN.match(label)
    if sign and not begins and not ends:
        return "begin" if sign[1] == "+" else "end"
    if begins and ends:
        return None
    if ends:
        return "end"
    if begins:
        return "begin"
    return "seizure"


def _non_epileptic(words: Sequence[str]) -> bool:
    return any(word == "non" and following in _NOT_EPILEPTIC for word, following in pairwise(words))


def _denied(words: Sequence[str]) -> bool | None:
    """Whether words that name a seizure say that there is none; None: a word denies something else, so that it is not clear."""
    unclear = False
    for i, word in enumerate(words):
        if word == "none":
            return True
        if word in _DENIES_NEXT:
            following = next((other for other in words[i + 1 :] if other not in _ARTICLES), "")
            if _SEIZURE_WORD.match(following):
                return True
            unclear |= word not in _QUALIFIES
        if word in _DENIES_BEFORE:
            if i and _SEIZURE_WORD.match(words[i - 1]):
                return True
            unclear = True
    return None if unclear else False


def bare_meaning(label: str) -> Meaning | None:
    """The meaning of a label that is "onset" or "offset" alone, which may be a seizure's if both occur."""
    words = [word for word in words_of(label) if not word.isdigit()]
    if len(words) != 1:
        return None
    if words[0] in ("onset", "begin", "start"):
        return "begin"
    if words[0] in ("offset", "end", "stop"):
        return "end"
    return None


def resembles_seizure(label: str) -> bool:
    """Whether a label that is not understood may still be about a seizure; discharges between seizures are surely none."""
    words = words_of(label)
    if any(_SEIZURE_WORD.match(word) for word in words):
        return True
    if _AROUND.intersection(words) or "epileptiform" in words:
        return False
    return any(_RESEMBLES.search(word) for word in words)


def read_label_map(path: Path | None) -> dict[str, Meaning]:
    """The table of ``--label-map`` as {label in lower case: meaning}.

    Raises:
        UserError: not such a table, or a meaning that does not exist.
    """
    if path is None:
        return {}
    from core_runtime.tables import read_table

    table = read_table(path)
    labels, meanings = table.column("label"), table.column("meaning")
    assert labels is not None
    assert meanings is not None
    known: dict[str, Meaning] = {word: word for word in get_args(Meaning)}
    label_map: dict[str, Meaning] = {}
    for row in table:
        label, meaning = row[labels], (row[meanings] or "").casefold()
        # The reader of tables takes the word "none" as a missing value.
        if row[meanings] is None and label is not None:
            meaning = "none"
        if label is None or meaning not in known:
            raise UserError(
                f"{path}, line {row.line}: {row[meanings]!r} is not one of {', '.join(known)}",
                "each line is 'label,meaning'",
            )
        label_map[label.casefold()] = known[meaning]
    return label_map
