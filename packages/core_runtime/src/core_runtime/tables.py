"""The one reader of tables that users make: labels, slides, splits, events, points.

Spreadsheet programs write them with commas, semicolons or tabs, in UTF-8, UTF-16 or a Windows code page, with blank rows, short rows and forgotten
quotes. Every row read is either used or left out for a reason that is told: ``rows read = used + left out``.
"""

import csv
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, clean

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?"})
_SEPARATORS = (",", ";", "\t", "|")
_LARGEST = 512 * 1024 * 1024  # bytes: far beyond any table that is written by hand
_HINT = "save it as CSV (UTF-8) with a header line"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: its line in the file, 1 for the header.
        cells: column → text without blanks around it, or None for a missing value.
    """

    line: int
    cells: Mapping[str, str | None]

    def __getitem__(self, column: str) -> str | None:
        return self.cells[column]

    def get(self, column: str | None) -> str | None:
        """The cell of a column that the table may not have."""
        return self.cells.get(column) if column is not None else None


@dataclass
class Table:
    """A table as it was read, and the account of its rows.

    Attributes:
        path: the file.
        columns: names, as in the header.
        rows: those that have a cell for every column.
        encoding, separator: as found.
        left_out: line → why that row is not used. `leave_out` adds to it.
        notes: what was odd about the file.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]
    encoding: str
    separator: str
    left_out: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row]:
        """The rows that are used: those not left out, also not by the loop so far."""
        for row in self.rows:
            if row.line not in self.left_out:
                yield row

    def leave_out(self, row: Row, reason: str) -> None:
        """Notes that a row is not used."""
        self.left_out[row.line] = reason

    def column(self, *names: str, required: bool = True) -> str | None:
        """The first of these columns that the table has; case, blanks, hyphens and underscores do not matter.

        Raises:
            UserError: it has none of them and `required` is set, or two columns that are both meant.
        """
        for name in names:
            matches = [column for column in self.columns if _folded(column) == _folded(name)]
            if len(matches) > 1:
                raise UserError(f"{self.path}: the columns {' and '.join(map(repr, matches))} have the same name")
            if matches:
                return matches[0]
        if not required:
            return None
        near = difflib.get_close_matches(_folded(names[0]), [_folded(column) for column in self.columns], 1)
        hint = f"its columns are {', '.join(map(repr, self.columns))}"
        if near:
            similar = next(column for column in self.columns if _folded(column) == near[0])
            hint += f"; is it {similar!r}?"
        raise UserError(f"{self.path} has no column {names[0]!r}", hint)

    def number(self, row: Row, column: str) -> float | None:
        """A cell as a number, with a decimal comma where the separator leaves room for one; None for a missing value.

        Raises:
            UserError: it is not a finite number.
        """
        text = row[column]
        if text is None:
            return None
        plain = text.replace(",", ".") if self.separator != "," else text
        try:
            value = float(plain)
        except ValueError:
            value = float("nan")
        if value != value or abs(value) == float("inf"):
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
        commonest = sorted(lines_of.items(), key=lambda entry: -len(entry[1]))[:8]
        parts = []
        for reason, lines in commonest:
            more = "…" if len(lines) > 1 else ""
            parts.append(f"{len(lines)} {reason} (line {lines[0]}{more})")
        out = len(self.left_out)
        return f"{self.path.name}: {total} rows, {total - out} used, {out} left out: {', '.join(parts)}"


def read_table(path: Path, *, comment: str = "") -> Table:
    """Reads a table with a header line.

    Args:
        path: the file.
        comment: lines that begin with it are passed over.

    Raises:
        UserError: it cannot be read, is not a table, or has two columns of one name.
    """
    text, encoding, notes = _decoded(path)
    lines = text.splitlines()
    numbered = [(n, line) for n, line in enumerate(lines, 1) if not (comment and line.startswith(comment))]
    filled = [(n, line) for n, line in numbered if line.strip()]
    if not filled:
        raise UserError(f"{path} is empty", _HINT)
    separator = _separator(filled[0][1])
    head_line, head = filled[0]
    columns = [cell.strip() for cell in _cells(head, separator) or []]
    while columns and not columns[-1]:  # separators at the end of the line
        columns.pop()
    if not columns:
        raise UserError(f"{path}, line {head_line}: the header cannot be read (a quote is not closed)", _HINT)
    if "" in columns:
        columns = [name or f"column {i + 1}" for i, name in enumerate(columns)]  # an index that a program wrote
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: the column {repeated[0]!r} is there twice", "rename one of them")
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
    """Why a line is left out, or ""; and its cells."""
    if not line.strip().strip(separator).strip():
        return "blank", []
    cells = _cells(line, separator)
    if cells is None:
        return "with a quote that is not closed", []
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) > width:
        return "with more cells than columns", []
    if len(cells) < width:
        return "with fewer cells than columns", []
    values = [cell.strip() for cell in cells]
    return "", [None if value.lower() in MISSING else value for value in values]


def _drop_blank_end(table: Table, numbered: Sequence[tuple[int, str]]) -> None:
    """Blank lines at the end of a file are not rows."""
    for n, _ in reversed(numbered):
        if table.left_out.get(n) != "blank":
            return
        del table.left_out[n]


def _cells(line: str, separator: str) -> list[str] | None:
    """The cells of one line, or None where a quote is not closed. A quoted cell does not go on in the next line."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return None


def _separator(head: str) -> str:
    """The separator that cuts the header into the most cells."""
    return max(_SEPARATORS, key=lambda s: len(_cells(head, s) or []))


def _decoded(path: Path) -> tuple[str, str, list[str]]:
    """The text of a file, its encoding, and what was odd about it."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is too large for a table ({path.stat().st_size / 1e9:.1f} GB)", _HINT)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", _HINT) from None
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise UserError(f"{path} is a spreadsheet, not a text table", _HINT)
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return _text(path, data, encoding), encoding, []
    zeros = data[:200].count(0)
    if zeros > len(data[:200]) // 4:  # every other byte: UTF-16 without a mark
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        return _text(path, data, encoding), encoding, []
    if 0 in data:
        raise UserError(f"{path} is not a text table", _HINT)
    try:
        return data.decode("utf-8"), "utf-8", []
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        note = f"{path.name} is not UTF-8 and was read as Windows-1252: look at its special characters"
        return text, "cp1252", [note]


def _text(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: it begins as {encoding} and does not go on so", _HINT) from None


def _folded(name: str) -> str:
    """A name without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", clean(name)).casefold()


def near_equal(names: Iterable[Any]) -> list[list[str]]:
    """Groups of names that differ only in case, blanks, hyphens or underscores: most often one name, spelled twice."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(map(str, names)):
        groups.setdefault(_folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def match_name(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that is meant by a name: the same, or the same but for case, blanks, hyphens and underscores."""
    if name in known:
        return name
    folded = [candidate for candidate in known if _folded(candidate) == _folded(name)]
    return folded[0] if len(folded) == 1 else None
