"""Tables of any length, row by row: what trackers and analysis programs export, with any separator, encoding and decimal sign.

Small tables that people write by hand are read with `core_runtime.tables`; these here may have millions of rows, and only some columns are needed.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from core_runtime.errors import UserError
from core_runtime.tables import MISSING

SEPARATORS = "\t;,|"
_HEAD = 256 * 1024  # bytes looked at for the encoding
_MISSING = MISSING | {"."}
_NAN = float("nan")
BROKEN = (OSError, EOFError, zlib.error)  # what reading a damaged file, gzipped or not, may raise
LARGEST = 1e17  # times in µs since 1970 are 2e15; nothing that a tracker measures is larger
_UNIT_IN_BRACKETS = re.compile(r"\[.*?\]|\((?:mcs|acs|adcs|dacs)?\s*(?:px|mm|norm|ms|s|us|μs|µs)\)")
_MAY_BE_THOUSANDS = re.compile(r",\d{3}(?!\d)")
_UNIT_AT_END = re.compile(r"[\s_](?:ms|msec|us|μs|µs|s|sec|seconds|px|pix)$")


@dataclass
class Columns:
    """A table whose header was read.

    Attributes:
        path: the file.
        names: of its columns.
        separator, encoding: as found.
        header_line: its number in the file; lines before it are comments.
        left_out: reason → rows, filled while `rows` runs.
        notes: what is odd about the file.
    """

    path: Path
    names: Sequence[str]
    separator: str
    encoding: str
    header_line: int
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def find(self, *names: str) -> str | None:
        """The first of these columns that the table has; case, blanks, hyphens, underscores and a unit do not matter."""
        for name in names:
            for column in self.names:
                if folded(column) == folded(name):
                    return column
        return None

    def named(self, column: str) -> str:
        """The column that the user named.

        Raises:
            UserError: there is none of that name.
        """
        match = column
        if column not in self.names:
            match = self.find(column)
        if match is None:
            raise UserError(
                f"{self.path} has no column {column!r}", f"its columns are {', '.join(map(repr, self.names[:40]))}"
            )
        return match

    def rows(self, columns: Sequence[str]) -> Iterator[list[str]]:
        """The cells of these columns, row by row, without blanks around them. Rows of another width are left out and counted.

        Raises:
            UserError: the file ends within a quoted cell or a cell is absurdly long.
        """
        places = [self.names.index(column) for column in columns]
        width = len(self.names)
        with open_text(self.path, self.encoding) as file:
            for _ in range(self.header_line):
                file.readline()
            quoting = csv.QUOTE_MINIMAL
            if self.separator == "\t":
                quoting = csv.QUOTE_NONE
            try:
                for cells in csv.reader(file, delimiter=self.separator, quoting=quoting):
                    if not cells or (len(cells) == 1 and not cells[0].strip()):
                        continue
                    if len(cells) < width:
                        self._leave_out("rows with too few cells")
                    elif len(cells) > width and any(cell.strip() for cell in cells[width:]):
                        self._leave_out("rows with too many cells")
                    else:
                        yield [cells[place].strip().strip('"') for place in places]
            except csv.Error as error:
                raise UserError(f"{self.path} cannot be read as a table: {error}", "is a quote not closed?") from error
            except BROKEN as error:
                raise UserError(f"{self.path} cannot be read: {error}", "copy it again") from error

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def number(self, text: str) -> float:
        """A cell as a number, with a decimal comma; NaN for missing values, other texts and absurd sizes.

        Between separators that are commas, a cell in quotes may have one, too; ``"1,234"`` could be a thousand there and is NaN.
        """
        try:
            value = float(text)
        except ValueError:
            if "," not in text or (self.separator == "," and _MAY_BE_THOUSANDS.search(text)):
                return _NAN
            if "." in text:  # points between thousands
                text = text.replace(".", "")
            try:
                value = float(text.replace(",", "."))
            except ValueError:
                return _NAN
        if abs(value) < LARGEST:
            return value
        return _NAN


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.lower() in _MISSING


def folded(name: str) -> str:
    """A column's name without case, blanks, hyphens, underscores and its unit: ``[ms]``, ``(MCSpx)``, ``_ms``."""
    plain = _UNIT_AT_END.sub("", _UNIT_IN_BRACKETS.sub("", name.casefold()).rstrip())
    return re.sub(r"[\s_-]", "", plain)


def open_text(path: Path, encoding: str) -> IO[str]:
    """The text of a file, gunzipped where its name ends with .gz.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        raw = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # noqa: SIM115 (the caller's)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return io.TextIOWrapper(raw, encoding, errors="replace", newline=None)  # pyright: ignore[reportArgumentType]


def read_head(path: Path, size: int = _HEAD) -> bytes:
    """The first bytes of a file, gunzipped where its name ends with .gz; empty where it cannot be read."""
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(size)
    except (*BROKEN, ValueError):
        return b""


def encoding_of(head: bytes) -> str:
    """UTF-8 or UTF-16 by their marks or by their zeros; a Windows code page where it is not UTF-8."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = head[:400]
    if sample.count(b"\0") > len(sample) // 4:
        if sample[1::2].count(b"\0") > sample[::2].count(b"\0"):
            return "utf-16-le"
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def header_of(head: bytes) -> tuple[int, str, str] | None:
    """(its line, the header, encoding) of a table's first bytes: the first line that is neither blank nor a comment (#)."""
    encoding = encoding_of(head)
    lines = head.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            return number, line, encoding
    return None


def split_header(line: str) -> tuple[str, list[str]]:
    """(separator, names). The separator is the character of `SEPARATORS` that is there most often, the first of equals."""
    separator = max(SEPARATORS, key=line.count)
    try:
        cells = next(csv.reader([line], delimiter=separator))
    except (csv.Error, StopIteration):
        cells = line.split(separator)
    names = [cell.strip().strip("\ufeff") for cell in cells]
    while len(names) > 1 and not names[-1]:
        names.pop()
    return separator, names


def open_columns(path: Path) -> Columns:
    """Reads the header of a table.

    Raises:
        UserError: absent, empty, without columns, or with two columns of one name.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    head = read_head(path)
    header = header_of(head)
    if header is None:
        raise UserError(f"{path} is empty or cannot be read", "a table has a header line")
    number, line, encoding = header
    separator, names = split_header(line)
    if len(names) < 2:
        raise UserError(
            f"{path} is not a table: its first line is {line[:60]!r}",
            "columns stand between tabs, commas or semicolons",
        )
    named = [name for name in names if name]
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: the column {repeated[0]!r} is there twice", "rename one of them")
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    notes = [f"the file is in {encoding}"]
    if encoding.startswith("utf-8"):
        notes = []
    return Columns(path, names, separator, encoding, number, notes=notes)
