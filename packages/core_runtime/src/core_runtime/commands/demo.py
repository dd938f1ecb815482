"""``attention-suite demo``: the demos of all domains side by side, and one report that is readable from the first one that ends."""

import multiprocessing
import os
import traceback
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.domains import DemoResult, Domain, domains
from core_runtime.errors import UserError
from core_runtime.options import Flag, Full, Overwrite, Seed, Workers
from core_runtime.report import Report, encoded
from core_runtime.terminal import note, track, warn


@dataclass(frozen=True)
class Demos(Outcome):
    """What each demo found, why others did not run, and the common report."""

    report: Path
    results: Mapping[str, DemoResult]
    failed: Mapping[str, str]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.failed else 0

    def facts(self) -> dict[str, Any]:
        return {
            "report": str(self.report),
            "demos": {name: result.facts() for name, result in self.results.items()},
            "failed": self.failed,
        }

    def lines(self) -> Iterable[str]:
        for name, result in self.results.items():
            yield f"{name}: {result.headline}"
        yield f"Report: {self.report}"


def demo(
    out: Path = Path("attention-suite-demo"),
    /,
    *,
    full: Full = False,
    only: list[str] | None = None,
    open_report: Annotated[bool, Parameter(name="--open"), Flag("--no-open")] = False,
    workers: Workers | None = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Demos:
    """Runs the demo of every installed domain, several side by side, and writes one report.

    Example: attention-suite demo /tmp/demo --only pathology-mil

    Args:
        out: folder for the demos and their common report.
        only: only this domain; may be repeated.
        open_report: open the report in the web browser.
        workers: demos that run at the same time; default: one per core.
    """
    installed, broken = domains()
    unknown = [name for name in only or [] if name not in installed]
    if unknown:
        raise UserError(f"no such domain: {', '.join(unknown)}", f"installed: {', '.join(installed) or 'none'}")
    selected = {name: domain for name, domain in installed.items() if not only or name in only}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    width = min(workers if workers is not None else cores, len(selected))
    options = {"full": full, "seed": seed, "overwrite": overwrite}
    results: dict[str, DemoResult] = {}
    failed = {} if only else {name: f"cannot be imported: {why}" for name, why in broken.items()}
    for name, why in failed.items():
        warn(f"{name} {why}")
    for name, domain in selected.items():
        note.print(f"{name}: {domain.question}", markup=False)
    ended = _one_by_one if width <= 1 else _side_by_side
    for name, result in track(ended(selected, out, options, width), "Demos", len(selected)):
        if isinstance(result, DemoResult):
            results[name] = result
            note.print(f"{name} is done: {result.headline}", markup=False)
        else:
            failed[name] = result
            warn(f"failed: {name}: {result}")
        path = _report(selected, results, failed, out).write(out / "report.html")
    path = _report(selected, results, failed, out).write(out / "report.html")
    if open_report:
        webbrowser.open(path.resolve().as_uri())
    return Demos(path, {name: results[name] for name in selected if name in results}, failed)


Ended = Iterator[tuple[str, DemoResult | str]]


def _one_by_one(selected: Mapping[str, Domain], out: Path, options: Mapping[str, Any], width: int) -> Ended:
    for name, domain in selected.items():
        yield name, _run(domain.demo, name, out, options)


def _side_by_side(selected: Mapping[str, Domain], out: Path, options: Mapping[str, Any], width: int) -> Ended:
    """In processes, so that one demo's crash leaves the others; each gets its share of the cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(width, mp_context=context, initializer=_prepare_process) as pool:
        running: dict[Future[DemoResult | str], str] = {
            pool.submit(_run_by_name, name, out, options): name for name in selected
        }
        for future in as_completed(running):
            try:
                yield running[future], future.result()
            except Exception as error:  # a process that died takes its demo along, and those still waiting
                yield running[future], f"its process died ({type(error).__name__})"


def _prepare_process() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # torch is not imported yet
    note.quiet = True


def _run_by_name(name: str, out: Path, options: Mapping[str, Any]) -> DemoResult | str:
    return _run(domains()[0][name].demo, name, out, options)


def _run(demo: Callable[..., DemoResult], name: str, out: Path, options: Mapping[str, Any]) -> DemoResult | str:
    """What a demo found, or why it failed. Its pictures become bytes, which travel between processes."""
    try:
        result = demo(out / name.replace(" ", "-"), **options)
        return replace(result, pictures=[(encoded(picture)[1], caption) for picture, caption in result.pictures])
    except UserError as error:
        return f"{error.message} {error.hint}".strip()
    except Exception as error:
        return _logged(out, name, error)


def _logged(out: Path, name: str, error: Exception) -> str:
    log = out / "error.log"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n" + "".join(traceback.format_exception(error)))
    except OSError:
        return f"unexpected {type(error).__name__}"
    return f"unexpected {type(error).__name__}; the details are in {log}"


def _report(
    selected: Mapping[str, Domain], results: Mapping[str, DemoResult], failed: Mapping[str, str], out: Path
) -> Report:
    """The page as far as the demos are: those that ended, those that failed, those still at work."""
    report = Report(
        "attention-suite demo",
        lead="One synthetic example per domain: made, learned, judged and drawn on this machine.",
    )
    waiting: Sequence[str] = [name for name in selected if name not in results and name not in failed]
    if waiting:
        report.text(f"Still running: {', '.join(waiting)}. Reload this page.")
    for name, result in ((name, results[name]) for name in selected if name in results):
        report.heading(f"{name}: {selected[name].question}").text(result.headline)
        for picture, caption in result.pictures:
            report.picture(picture, caption)
        if result.rows:
            report.table(result.columns, result.rows)
        report.link(result.report.resolve().relative_to(out.resolve()), "The whole report of this demo")
    for name, why in failed.items():
        report.heading(name).warning(f"did not run: {why}")
    return report
