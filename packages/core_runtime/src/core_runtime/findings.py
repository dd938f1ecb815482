"""What `inspect` and ``attention-suite try`` report on a file: what it is, whether it can be used, a first picture, the exact next command."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.figures import save_figure
from core_runtime.folders import name_in, writing
from core_runtime.report import Report


@dataclass(frozen=True, kw_only=True)
class Findings(Outcome):
    """What one file or folder holds.

    Attributes:
        title: heading of a report about it.
        kind: what it is, in words.
        summary: one sentence.
        usable: whether the next command would work.
        details: names and values, for readers and programs alike.
        data: further values for programs only.
        warnings: what the user should know first.
        next_commands: to be copied; each runs as it is printed.
        pictures: (picture as `Report.picture` takes it, caption), where they were asked for.
    """

    title: str
    kind: str
    summary: str
    usable: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    next_commands: Sequence[str] = ()
    pictures: Sequence[tuple[Any, str]] = ()

    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "usable": self.usable,
            "summary": self.summary,
            **self.details,
            **self.data,
            "warnings": list(self.warnings),
            "next": list(self.next_commands),
        }

    def lines(self) -> Iterable[str]:
        yield f"{self.title}: {self.kind}. {self.summary}"
        width = max((len(name) for name in self.details), default=0)
        for name, value in self.details.items():
            yield f"  {name:{width}}  {in_words(value)}"
        for warning in self.warnings:
            yield f"Warning: {warning}"
        for command in self.next_commands:
            yield f"Next: {command}"

    def report(self) -> Report:
        """The same as a page."""
        page = Report(self.title, lead=self.summary)
        for warning in self.warnings:
            page.warning(warning)
        verdict = "yes" if self.usable else "no"
        rows = [("kind", self.kind), ("usable", verdict)]
        for name, value in self.details.items():
            rows.append((name, in_words(value)))
        page.facts(rows)
        for picture, caption in self.pictures:
            page.picture(picture, caption)
        if self.next_commands:
            page.heading("Next").command(*self.next_commands)
        return page


MANY = 6  # files: of more, one line each


@dataclass(frozen=True, kw_only=True)
class FolderFindings(Outcome):
    """What a folder of several files holds.

    Attributes:
        findings: of each file that can be read.
        unreadable: names of the others, and why.
    """

    findings: Sequence[Findings]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.unreadable else 0

    def facts(self) -> list[dict[str, Any]]:
        rows = []
        for each in self.findings:
            rows.append({"title": each.title, **each.facts()})
        for name, why in self.unreadable.items():
            rows.append({"title": name, "usable": False, "problem": why})
        return rows

    def lines(self) -> Iterable[str]:
        many = len(self.findings) > MANY
        if many:
            yield from self._short_lines()
        else:
            for each in self.findings:
                yield from each.lines()
        for name, why in self.unreadable.items():
            yield f"{name}: cannot be read: {why}"
        if many:
            usable = sum(each.usable for each in self.findings)
            count = len(self.findings) + len(self.unreadable)
            yield f"{count} files, {usable} usable. Inspect one of them for its details, or give --json."

    def _short_lines(self) -> Iterable[str]:
        """A line per file, and each warning once with the number of files that it is about."""
        about: dict[str, list[str]] = {}
        for each in self.findings:
            unusable = "" if each.usable else " Not usable."
            yield f"{each.title}: {each.kind}. {each.summary}{unusable}"
            for warning in dict.fromkeys(each.warnings):
                about.setdefault(warning, []).append(each.title)
        for warning, titles in about.items():
            where = titles[0] if len(titles) == 1 else f"{len(titles)} files"
            yield f"Warning: {where}: {warning}"


def examine_files(root: Path, files: Sequence[Path], examine: Callable[[Path], Findings]) -> FolderFindings:
    """Looks at each file of a folder; those that cannot be read are named.

    Args:
        root: the folder.
        files: what to look at in it.
        examine: raises `UserError` for a file that cannot be read.

    Raises:
        UserError: none of them can be read; the first one's reason is given.
    """
    findings: list[Findings] = []
    unreadable: dict[str, str] = {}
    for file in files:
        try:
            findings.append(examine(file))
        except UserError as error:
            unreadable[name_in(root, file)] = error.message
    if not findings:
        name, reason = next(iter(unreadable.items()))
        raise UserError(f"{root}: none of its {len(files)} files can be read", f"{name}: {reason}")
    return FolderFindings(findings=findings, unreadable=unreadable)


def in_words(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, bool):  # before lists and numbers: str(True) is Python's word, not the user's
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def write_picture(findings: Findings, path: Path) -> Path:
    """Writes the first picture of the findings, as PNG, JPEG, SVG or PDF by the name's ending.

    Raises:
        UserError: another ending, or there is no picture.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "jpg", "jpeg", "svg", "pdf"):
        raise UserError(f"--picture {path}: pictures are .png, .jpg, .svg or .pdf", "choose a name with such an ending")
    if not findings.pictures:
        raise UserError(f"{findings.title}: there is nothing to draw")
    picture, _ = findings.pictures[0]
    with writing(path) as part:
        if isinstance(picture, bytes):
            part.write_bytes(picture)
        elif hasattr(picture, "savefig"):  # a matplotlib figure; otherwise a Pillow image
            save_figure(picture, part, kind=kind)
        else:
            picture.save(part, format={"jpg": "JPEG"}.get(kind, kind))
    return path
