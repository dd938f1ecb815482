"""The one reader of tables made by users: labels, slides, splits, events, points.

Spreadsheet programs write them with commas, semicolons or tabs, in UTF-8, UTF-16 or a Windows code page, with blank rows, short rows and forgotten
quotes. Every row read is either used or left out for a stated reason: ``rows read = used + left out``.
"""

import csv
import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, clean

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?"})
# In brackets these are the missing values of clinical tables (TCGA, cBioPortal): [Not Available], [Unknown].
_BRACKETED = frozenset(
    {"not available", "not applicable", "not evaluated", "unknown", "pending", "discrepancy", "not reported"}
)
_SEPARATORS = (",", ";", "\t", "|")
_LARGEST = 512 * 1024 * 1024  # bytes: far beyond any table that is written by hand
_HINT = "save it as CSV (UTF-8) with a header line"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: its line in the file, 1 for the header.
        cells: column → text without surrounding blanks, or None for a missing value.
    """

    line: int
    cells: Mapping[str, str | None]

    def __getitem__(self, column: str) -> str | None:
        return self.cells[column]

    def get(self, column: str | None) -> str | None:
        """The cell of a column that the table may not have."""
        if column is None:
            return None
        return self.cells.get(column)


@dataclass
class Table:
    """A table as it was read, and the account of its rows.

    Attributes:
        path: the file.
        columns: names, as in the header.
        rows: those that have a cell for every column.
        encoding, separator: as detected.
        left_out: line → why that row is not used. `leave_out` adds to it.
        notes: what is unusual about the file.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]
    encoding: str
    separator: str
    left_out: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row]:
        """The rows that are used: those not left out, neither by reading nor by the loop so far."""
        for row in self.rows:
            if row.line not in self.left_out:
                yield row

    def leave_out(self, row: Row, reason: str) -> None:
        """Records that a row is not used."""
        self.left_out[row.line] = reason

    def column(self, *names: str, required: bool = True) -> str | None:
        """The first of these columns that the table has; case, blanks, hyphens and underscores do not matter.

        Raises:
            UserError: it has none of them and `required` is set, or two columns match the same name.
        """
        for name in names:
            matches = [column for column in self.columns if _folded(column) == _folded(name)]
            if len(matches) > 1:
                raise UserError(f"{self.path}: the columns {' and '.join(map(repr, matches))} have the same name")
            if matches:
                return matches[0]
        if not required:
            return None
        # No such column: name those that are there, and the one that was probably meant.
        folded_columns = [_folded(column) for column in self.columns]
        near = difflib.get_close_matches(_folded(names[0]), folded_columns, 1)
        hint = f"its columns are {', '.join(map(repr, self.columns))}"
        if near:
            similar = self.columns[folded_columns.index(near[0])]
            hint += f"; is it {similar!r}?"
        raise UserError(f"{self.path} has no column {names[0]!r}", hint)

    def number(self, row: Row, column: str) -> float | None:
        """A cell as a number, with a decimal comma where the separator is not a comma; None for a missing value.

        Raises:
            UserError: it is not a finite number.
        """
        text = row[column]
        if text is None:
            return None
        plain = text
        if self.separator != ",":
            plain = text.replace(",", ".")
        try:
            value = float(plain)
        except ValueError:
            value = math.nan
        # float() reads "inf" and "1e999", too
        if not math.isfinite(value):
            raise UserError(f"{self.path}, line {row.line}: {column} is {text!r}, which is not a number")
        return value

    def account(self) -> str:
        """One line: rows read = used + left out, with reasons."""
        total = len({row.line for row in self.rows} | self.left_out.keys())
        if not self.left_out:
            return f"{self.path.name}: {total} rows, all used"
        lines_of: dict[str, list[int]] = {}
        for line, reason in sorted(self.left_out.items()):
            lines_of.setdefault(reason, []).append(line)
        # the eight most frequent reasons: a message must stay readable
        commonest = sorted(lines_of.items(), key=lambda entry: -len(entry[1]))[:8]
        parts = []
        for reason, lines in commonest:
            more = ""
            if len(lines) > 1:
                more = "…"
            parts.append(f"{len(lines)} {reason} (line {lines[0]}{more})")
        out = len(self.left_out)
        return f"{self.path.name}: {total} rows, {total - out} used, {out} left out: {', '.join(parts)}"


def read_table(path: Path, *, comment: str = "") -> Table:
    """Reads a table with a header line.

    Args:
        path: the file.
        comment: lines that begin with it are skipped.

    Raises:
        UserError: it cannot be read, is not a table, or has two columns of the same name.
    """
    text, encoding, notes = _decoded(path)
    # Line numbers are those of an editor, comments and blank lines included: the user looks a row up by them.
    numbered: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (comment and line.startswith(comment)):
            numbered.append((number, line))
    filled = [(number, line) for number, line in numbered if line.strip()]
    if filled and re.fullmatch(r"sep=.", filled[0][1].strip()):  # for Excel alone: the header is the next line
        filled.pop(0)
    if not filled:
        raise UserError(f"{path} is empty", _HINT)
    head_line, head = filled[0]
    separator = _separator(head)
    columns = [cell.strip() for cell in _cells(head, separator) or []]
    while columns and not columns[-1]:  # separators at the end of the line
        columns.pop()
    if not columns:
        raise UserError(f"{path}, line {head_line}: the header cannot be read (a quote is not closed)", _HINT)
    if "" in columns:  # an index column, which pandas and R write without a name
        columns = [name or f"column {i + 1}" for i, name in enumerate(columns)]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: there are two columns {repeated[0]!r}", "rename one of them")
    table = Table(path, columns, [], encoding, separator, notes=notes)
    rows = []
    for n, line in numbered:
        if n <= head_line:
            continue
        reason, cells = _row(line, separator, len(columns))
        if reason:
            table.left_out[n] = reason
        else:
            rows.append(Row(n, dict(zip(columns, cells, strict=True))))
    _drop_blank_end(table, numbered)
    table.rows = rows
    return table


def _row(line: str, separator: str, width: int) -> tuple[str, list[str | None]]:
    """The reason why a line is left out, or ""; and its cells."""
    if not line.strip().strip(separator).strip():  # separators alone are a blank row of a spreadsheet
        return "blank", []
    cells = _cells(line, separator)
    if cells is None:
        return "with a quote that is not closed", []
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    # A short or long row is never padded or cut: its cells may stand under the wrong columns.
    if len(cells) > width:
        return "with more cells than columns", []
    if len(cells) < width:
        return "with fewer cells than columns", []
    values = [cell.strip() for cell in cells]
    cleaned: list[str | None] = []
    for value in values:
        missing = value.lower() in MISSING or _is_bracketed(value)
        cleaned.append(None if missing else value)
    return "", cleaned


def _is_bracketed(value: str) -> bool:
    return value.startswith("[") and value.endswith("]") and value[1:-1].strip().lower() in _BRACKETED


def _drop_blank_end(table: Table, numbered: Sequence[tuple[int, str]]) -> None:
    """Removes blank lines at the end of a file from the account: they are not rows."""
    for n, _ in reversed(numbered):
        if table.left_out.get(n) != "blank":
            return
        del table.left_out[n]


def _cells(line: str, separator: str) -> list[str] | None:
    """The cells of one line, or None where a quote is not closed. A quoted cell cannot continue on the next line."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return None


def _separator(head: str) -> str:
    """The separator that cuts the header into the most cells."""
    return max(_SEPARATORS, key=lambda s: len(_cells(head, s) or []))


def _decoded(path: Path) -> tuple[str, str, list[str]]:
    """The text of a file, its encoding, and what is unusual about it."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is too large for a table ({path.stat().st_size / 1e9:.1f} GB)", _HINT)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", _HINT) from None
    # ZIP (.xlsx, .ods) and OLE (.xls): spreadsheets under a table's name
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise UserError(f"{path} is a spreadsheet, not a text table", _HINT)
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return _text(path, data, encoding), encoding, []
    zeros = data[:200].count(0)
    if zeros > len(data[:200]) // 4:  # every other byte: UTF-16 without a byte-order mark
        encoding = "utf-16-be"
        if data[1:2] == b"\0":  # a Latin letter: low byte first
            encoding = "utf-16-le"
        return _text(path, data, encoding), encoding, []
    if 0 in data:
        raise UserError(f"{path} is not a text table", _HINT)
    try:
        return data.decode("utf-8"), "utf-8", []
    except UnicodeDecodeError:
        # What older spreadsheet programs write on Windows; every byte sequence decodes, so a reader must look.
        text = data.decode("cp1252", errors="replace")
        note = f"{path.name} is not UTF-8 and was read as Windows-1252: check its special characters"
        return text, "cp1252", [note]


def _text(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: it begins as {encoding} but is not {encoding} throughout", _HINT) from None


def _folded(name: str) -> str:
    """A name without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", clean(name)).casefold()


def near_equal(names: Iterable[Any]) -> list[list[str]]:
    """Groups of names that differ only in case, blanks, hyphens or underscores, or are the same number (1, 1.0, 001): usually one name, spelled in two ways."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(map(str, names)):  # each spelling once, in order
        key = _folded(name)
        if re.fullmatch(r"\d+(\.\d+)?", name.strip()):
            key = str(float(name))
        groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def match_name(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that a name means: the same name, or the same but for case, blanks, hyphens and underscores."""
    if name in known:
        return name
    similar = [candidate for candidate in known if _folded(candidate) == _folded(name)]
    if len(similar) == 1:  # of two, neither is more likely
        return similar[0]
    return None
