"""``attention-suite``: what spans the installed domains: their demos, their health, and the first look at any file.

A domain package registers one `Domain` under the entry-point group ``attention_suite.domains``. The module that holds it imports nothing heavy;
its functions import what they need when they are called.
"""

import traceback
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from core_runtime.cli import Json, Overwrite, Verbose, application, emit, note, run
from core_runtime.errors import UserError, clean
from core_runtime.report import Report

GROUP = "attention_suite.domains"


@dataclass(frozen=True)
class Check:
    """One line of a domain's doctor: what was looked at, whether it is as it should be, and what to do if not."""

    name: str
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Glance:
    """The first look at a file: what it is, whether it can be used, pictures, and the exact next command."""

    title: str
    usable: bool
    summary: str
    facts: Sequence[tuple[str, Any]] = ()
    pictures: Sequence[tuple[Any, str]] = ()  # (picture as `Report.picture` takes it, caption)
    next_commands: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class DemoResult:
    """What a domain's demo found: a sentence, the picture worth showing, a table (columns, rows), its own report, figures for programs."""

    headline: str
    report: Path
    pictures: Sequence[tuple[Any, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def emit(self, as_json: bool) -> None:
        """Prints it, for a domain's own ``demo``."""
        made = {"headline": self.headline, "report": self.report, "metrics": dict(self.metrics)}
        emit(made, as_json, lambda: print(f"{self.headline}\nReport: {self.report}"))


@dataclass(frozen=True)
class Domain:
    """One domain (or one group of a domain's command) as the suite sees it.

    Args:
        name: the command, ``pathology-mil`` (``remote-sensing maps`` for a group).
        question: the question that it answers for its people, in one line.
        recognises: cheap look at a path: what kind of file it is ("whole-slide image"), or None if it is none of ours.
        glance: first look within a minute; raises `UserError` for a file of ours that cannot be read.
        demo: ``demo(out, full)`` makes samples, trains, evaluates, predicts and reports.
        doctor: checks of what the domain needs.
        app: import path of the Typer app, ``pathology_mil.cli:app``.
        kinds: what it recognises, in words, for the message when nothing fits.
    """

    name: str
    question: str
    recognises: Callable[[Path], str | None]
    glance: Callable[[Path], Glance]
    demo: Callable[[Path, bool], DemoResult]
    doctor: Callable[[], list[Check]]
    app: str
    kinds: str = ""


def domains() -> tuple[dict[str, Domain], dict[str, str]]:
    """The installed domains by name, and of each that cannot be imported, why."""
    found: dict[str, Domain] = {}
    broken: dict[str, str] = {}
    entries: list[EntryPoint] = sorted(entry_points(group=GROUP), key=lambda e: e.name)
    for entry in entries:
        try:
            domain = entry.load()
        except Exception as error:
            broken[entry.name] = clean(f"{type(error).__name__}: {error}")
        else:
            found[domain.name] = domain
    return found, broken


app = application(
    "attention-suite",
    "Published attention systems on real scientific data. Try: `attention-suite demo`, `attention-suite try FILE`.",
)
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the report in the web browser.")]


@app.command("list")
def list_domains(json: Json = False, verbose: Verbose = False) -> None:
    """Lists the installed domains and the question that each answers."""
    found, broken = domains()

    def human() -> None:
        for domain in found.values():
            print(f"{domain.name:24} {domain.question}")
        for name, why in broken.items():
            print(f"{name:24} cannot be imported: {why}")

    emit(
        {
            "domains": [{"name": d.name, "question": d.question, "recognises": d.kinds} for d in found.values()],
            "broken": broken,
        },
        json,
        human,
    )
    if broken:
        raise typer.Exit(1)


@app.command()
def doctor(json: Json = False, verbose: Verbose = False) -> None:
    """Checks every installed domain; one line a check, exit status 1 if something is missing."""
    found, broken = domains()
    rows = [(name, Check("import", False, why)) for name, why in broken.items()]
    for name, domain in found.items():
        try:
            rows += [(name, check) for check in domain.doctor()]
        except Exception as error:
            rows.append((name, Check("doctor", False, clean(f"{type(error).__name__}: {error}"))))

    def human() -> None:
        for name, check in rows:
            print(
                f"{'ok     ' if check.ok else 'MISSING'} {name}: {check.name}"
                + (f" ({check.note})" if check.note else "")
            )

    emit([{"domain": name, "check": c.name, "ok": c.ok, "note": c.note} for name, c in rows], json, human)
    if not all(check.ok for _, check in rows):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the demos and their common report.")] = Path(
        "attention-suite-demo"
    ),
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Longer demos (minutes) instead of about a minute each.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this domain; may be repeated.")] = None,
    open_report: Open = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Runs the demo of every installed domain and writes one report.

    Example: attention-suite demo /tmp/demo --only pathology-mil
    """
    found, broken = domains()
    unknown = [name for name in only or [] if name not in found]
    if unknown:
        raise UserError(f"no such domain: {', '.join(unknown)}", f"installed: {', '.join(found) or 'none'}")
    chosen = {name: d for name, d in found.items() if not only or name in only}
    report = Report(
        "attention-suite demo", lead="One synthetic example a domain: made, learned, judged and drawn on this machine."
    )
    results: dict[str, Any] = {}
    failed = dict(broken) if not only else {}
    for name, domain in chosen.items():
        note.print(f"{name}: {domain.question}", style="bold")
        try:
            result = domain.demo(out / name.replace(" ", "-"), full)
        except UserError as error:
            failed[name] = f"{error.message} {error.hint}".strip()
            continue
        except Exception as error:
            failed[name] = _logged(out, name, error)
            continue
        results[name] = {"headline": result.headline, "report": str(result.report), "metrics": dict(result.metrics)}
        report.heading(f"{name}: {domain.question}").text(result.headline)
        for picture, caption in result.pictures:
            report.picture(picture, caption)
        if result.rows:
            report.table(result.columns, result.rows)
        report.link(result.report.resolve().relative_to(out.resolve()), "The whole report of this demo")
    for name, why in failed.items():
        report.heading(name).warning(f"did not run: {why}")
    path = report.write(out / "report.html")

    def human() -> None:
        for name, result in results.items():
            print(f"{name}: {result['headline']}")
        print(f"Report: {path}")

    emit({"report": str(path), "demos": results, "failed": failed}, json, human)
    for name, why in failed.items():
        note.print(f"failed: {name}: {why}", style="yellow", markup=False, soft_wrap=True)
    if open_report:
        webbrowser.open(path.resolve().as_uri())
    if failed:
        raise typer.Exit(1)


def _logged(out: Path, name: str, error: Exception) -> str:
    log = out / "error.log"
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n" + "".join(traceback.format_exception(error)))
    except OSError:
        return f"unexpected {type(error).__name__}"
    return f"unexpected {type(error).__name__}; the details are in {log}"


@app.command("try")
def try_file(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A slide, map sheet, recording, scanpath, screenshot or volume.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; default: try-NAME here.")
    ] = None,
    open_report: Open = True,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Looks at any file of a known field: what it is, whether it is usable, a first picture and the exact next command.

    Example: attention-suite try slide.svs
    """
    if not path.exists():
        raise UserError(f"no such file: {path}", "give the path of a file that the instrument wrote")
    found, broken = domains()
    domain, kind = next(((d, k) for d in found.values() if (k := d.recognises(path))), (None, None))
    if domain is None:
        kinds = "; ".join(f"{d.kinds or d.name}" for d in found.values())
        raise UserError(
            f"{path.name}: no installed domain knows this kind of file",
            f"known: {kinds}" + (f". Not importable: {', '.join(broken)}" if broken else ""),
        )
    glance = domain.glance(path)
    report = Report(glance.title, lead=glance.summary)
    for warning in glance.warnings:
        report.warning(warning)
    report.facts([("kind", kind), ("usable", "yes" if glance.usable else "no"), *glance.facts])
    for picture, caption in glance.pictures:
        report.picture(picture, caption)
    if glance.next_commands:
        report.heading("Next").command(*glance.next_commands)
    folder = out or Path(f"try-{path.stem}")
    target = folder / "report.html"
    if out is not None and target.exists() and not overwrite:
        raise UserError(f"{target} is already there", "--overwrite replaces it, --out names another folder")
    report.write(target)

    def human() -> None:
        print(f"{path.name}: {kind}. {glance.summary}")
        for warning in glance.warnings:
            print(f"Warning: {warning}")
        for command in glance.next_commands:
            print(f"Next: {command}")
        print(f"Report: {target}")

    emit(
        {
            "file": str(path),
            "kind": kind,
            "domain": domain.name,
            "usable": glance.usable,
            "summary": glance.summary,
            "facts": dict(glance.facts),
            "warnings": list(glance.warnings),
            "next": list(glance.next_commands),
            "report": str(target),
        },
        json,
        human,
    )
    if open_report and note.is_terminal and not json:
        webbrowser.open(target.resolve().as_uri())
    if not glance.usable:
        raise typer.Exit(2)


def main() -> None:
    run(app)
