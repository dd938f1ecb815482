"""Bulk work: one function over many items, where a finished output *is* the state and a rerun goes on.

An item's output is written beside its place and renamed into it (`core_runtime.folders.writing`). It is done if it exists and was made from what the
item's key says (`core_runtime.identity`). One JSONL line per attempt is the log, for readers and for the final summary, never the state.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.identity import begin, begun, finish, is_done, is_own_output, refuse_inputs_as_outputs
from core_runtime.options import BulkOptions, use_threads
from core_runtime.terminal import note, progress, warn

DONE, ALREADY, FAILED = "done", "already done", "failed"


@dataclass(frozen=True)
class Item:
    """One piece of bulk work.

    name: shown to the user.
    source: what `work` needs; picklable.
    output: the file or folder that the work writes.
    key: everything that the output depends on: ``{"input": identity(path), "model": …, "options": …}``.
    inputs: files that no output may replace.
    """

    name: str
    source: Any
    output: Path
    key: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Path] = ()


@dataclass(frozen=True)
class Attempt:
    """The result of one item. `status` is "done", "already done", "failed", or a word of the work's own ("no tissue")."""

    name: str
    status: str
    message: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status in (DONE, ALREADY)


class BulkOutcome(Outcome):
    """What a verb over many items ends with: its exit status and the names of what failed come from its attempts.

    Attributes:
        attempts: what became of each item; a field of every subclass.
    """

    attempts: Sequence[Attempt]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(self.attempts)

    @property
    def failed(self) -> dict[str, str]:
        """Item → why it has no result."""
        return failures(self.attempts)


def read_results(items: Sequence[Item], attempts: Sequence[Attempt], name: str = "") -> list[Any]:
    """What the items that succeeded wrote as JSON, in order.

    Args:
        items: whose outputs are folders, or JSON files.
        attempts: what became of each.
        name: of the file in each folder; empty where the output is the file.
    """
    results = []
    for item, attempt in zip(items, attempts, strict=True):
        if attempt.ok:
            results.append(json.loads((item.output / name).read_text(encoding="utf-8")))
    return results


class Skipped(Exception):
    """Raised by a work function for an item that can be read but holds nothing to work on; `status` is the word recorded for it.

    The function may leave an (empty) output behind, so that later stages and reruns know.
    """

    def __init__(self, status: str, message: str = "") -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


def bulk(
    work: Callable[[Item], dict[str, Any] | None],
    items: Sequence[Item],
    run: BulkOptions = BulkOptions(),
    *,
    log: Path,
    description: str,
    summaries: Sequence[Path] = (),
    executor: Executor | None = None,
    parts: bool = False,
) -> list[Attempt]:
    """Runs `work` over `items`, in order of completion, and returns one attempt per item, in the order of `items`.

    The error of a single item is raised, whatever `run` says: there are no others to go on to.

    Args:
        work: a module-level function; writes the item's output atomically and returns facts for the log and the summary.
        items: the work; no two write the same output (`core_runtime.folders.output_names`).
        run: processes, torch's threads in each, what an item that fails ends, whether finished items are made again.
        log: JSONL file, one line per attempt is appended; none where the only item fails.
        description: of the progress bar.
        summaries: files of all items together, which the caller writes afterwards: no input or file of the user, and no input of the next run.
        executor: any `concurrent.futures`-like executor in place of processes (a Dask client's, say).
        parts: the items are parts of one larger thing, so that even a single one that fails is an attempt among others.

    Raises:
        UserError: an existing output was made from something else, an output or summary would replace an input, a single item failed, or one
            of several did and `run` stops there, or the log cannot be written.
    """
    outputs = [item.output for item in items]
    if len(set(outputs)) < len(outputs):
        raise ValueError(f"two items write {max(outputs, key=outputs.count)}")
    inputs: list[Path] = []
    for item in items:
        inputs += item.inputs
    refuse_inputs_as_outputs(inputs, [*outputs, *summaries])
    for path in summaries:
        if path.exists() and not is_own_output(path) and not run.overwrite:
            raise UserError(f"{path} is already there", "--overwrite replaces it, --out names another folder")
    single = len(items) == 1 and not parts
    if single and executor is None:
        attempt = _single(work, items[0], run, log)
        _begin_summaries(summaries, items)
        return [attempt]
    # by position, since items may share a name
    attempts: dict[int, Attempt] = {}
    todo: list[int] = []
    for i, item in enumerate(items):
        if not run.overwrite and is_done(item.output, item.key):
            attempts[i] = Attempt(item.name, ALREADY)
        else:
            todo.append(i)
    with _Log(log) as record, progress(description, len(items)) as bar:
        bar.advance(bar.task_ids[0], len(attempts))

        def ended(i: int, attempt: Attempt) -> None:
            attempts[i] = attempt
            record.append(attempt)
            bar.advance(bar.task_ids[0])
            if attempt.status == FAILED and (single or not run.skip_errors):
                hint = "mend it and run again"
                if len(items) > 1:
                    hint += ", or go on past such items with --skip-errors"
                raise UserError(f"{attempt.name}: {attempt.message}", hint)

        if executor is not None:
            _spread(work, items, todo, executor, 8, ended)
        elif run.workers > 1 and len(todo) > 1:
            _processes(work, items, todo, run, ended)
        else:
            use_threads(run.threads)
            for i in todo:
                ended(i, _attempt(work, items[i]))
    _begin_summaries(summaries, items)
    return [attempts[i] for i in range(len(items))]


def _single(work: Callable[[Item], dict[str, Any] | None], item: Item, run: BulkOptions, log: Path) -> Attempt:
    """Works on the only item: its error keeps its own words, or its traceback, and what fails leaves nothing behind."""
    if not run.overwrite and is_done(item.output, item.key):
        return Attempt(item.name, ALREADY)
    use_threads(run.threads)
    began = time.monotonic()
    status, message, facts = DONE, "", {}
    with begun(item.output, item.key):
        try:
            facts = work(item) or {}
        except Skipped as skipped:
            status, message = skipped.status, skipped.message
        except MemoryError:
            raise UserError(f"{item.name}: out of memory") from None
    attempt = Attempt(item.name, status, message, round(time.monotonic() - began, 3), facts)
    with _Log(log) as record:
        record.append(attempt)
    return attempt


def _begin_summaries(summaries: Sequence[Path], items: Sequence[Item]) -> None:
    """Marks files of all items as made by us."""
    for path in summaries:
        begin(path, {"items": [item.key for item in items]})


def require_results(attempts: Sequence[Attempt]) -> None:
    """Makes sure that at least one item has a result: without any, the input cannot be used.

    Raises:
        UserError: none has; the message is the first item's.
    """
    if any(attempt.ok for attempt in attempts):
        return
    first = attempts[0]
    reason = first.message or first.status
    if not reason.startswith(first.name):
        reason = f"{first.name}: {reason}"
    raise UserError(reason)


def failures(attempts: Iterable[Attempt]) -> dict[str, str]:
    """Item → why it has no result: the message, else the recorded word ("no tissue")."""
    return {attempt.name: attempt.message or attempt.status for attempt in attempts if not attempt.ok}


def summary(attempts: Iterable[Attempt]) -> int:
    """Names what did not work on standard error and returns the exit status: 0 if all is done, else 1."""
    attempts = list(attempts)
    bad = [attempt for attempt in attempts if not attempt.ok]
    for attempt in bad:
        reason = ""
        if attempt.message:
            reason = f": {attempt.message}"
        warn(f"{attempt.status}: {attempt.name}{reason}")
    if bad:
        note.print(f"{len(attempts) - len(bad)} of {len(attempts)} done, {len(bad)} not (named above)", markup=False)
    return 1 if bad else 0


def _attempt(work: Callable[[Item], dict[str, Any] | None], item: Item) -> Attempt:
    """Runs in the worker: every error becomes an attempt, so that one item never ends the others."""
    began = time.monotonic()
    status, message, facts = DONE, "", {}
    try:
        begin(item.output, item.key)
        facts = work(item) or {}
        # A work may rightly write nothing: then there is no output to vouch for.
        if item.output.exists():
            finish(item.output, item.key)
    except Skipped as skipped:
        status, message = skipped.status, skipped.message
        if item.output.exists():
            finish(item.output, item.key)
    except UserError as error:
        status, message = FAILED, error.message
        if error.hint:
            message += f" ({error.hint})"
    except MemoryError:
        status, message = FAILED, "out of memory"
    except Exception as error:
        # the traceback goes to --verbose only: it may quote tensors and paths of patients
        logging.getLogger(__name__).info("%s", item.name, exc_info=True)
        status, message = FAILED, f"{type(error).__name__}: {error}"
    return Attempt(item.name, status, message, round(time.monotonic() - began, 3), facts)


def _spread(
    work: Any,
    items: Sequence[Item],
    todo: Sequence[int],
    pool: Executor,
    width: int,
    ended: Callable[[int, Attempt], None],
) -> None:
    """Keeps `width` items in flight, so that a year of recordings is not queued (and pickled) at once."""
    waiting: dict[Future[Attempt], int] = {}
    queue = iter(todo)
    try:
        while True:
            while len(waiting) < width and (i := next(queue, None)) is not None:
                waiting[pool.submit(_attempt, work, items[i])] = i
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                attempt = future.result()  # a BrokenProcessPool leaves `waiting` to the caller's second round
                ended(waiting.pop(future), attempt)
    finally:
        # after Ctrl-C or --stop: what has not begun shall not begin
        for future in waiting:
            future.cancel()


def _processes(
    work: Any,
    items: Sequence[Item],
    todo: Sequence[int],
    run: BulkOptions,
    ended: Callable[[int, Attempt], None],
) -> None:
    # here, since every command imports this module for its options and --help shall be instant
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    finished: set[int] = set()

    def mark(i: int, attempt: Attempt) -> None:
        finished.add(i)
        ended(i, attempt)

    context = multiprocessing.get_context("spawn")  # forking a process that holds torch's or OpenSlide's threads hangs
    try:
        with ProcessPoolExecutor(run.workers, context, use_threads, (run.threads,)) as pool:
            # two for each worker: one at work, one ready, so that no worker waits for this process
            _spread(work, items, todo, pool, 2 * run.workers, mark)
        return
    except BrokenProcessPool:
        pass
    # A worker died (killed for memory, or a crash inside a library). Running one item at a time shows which one is to blame.
    unfinished = [i for i in todo if i not in finished]
    for i in unfinished:
        try:
            with ProcessPoolExecutor(1, context, use_threads, (run.threads,)) as pool:
                attempt = pool.submit(_attempt, work, items[i]).result()
        except BrokenProcessPool:
            attempt = Attempt(
                items[i].name, FAILED, "its worker process died (out of memory, or a crash inside a library)"
            )
        ended(i, attempt)


class _Log:
    """An append-only JSONL file that survives being killed in the middle of a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Log":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("ab+")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}", "choose a folder with --out that can be written"
            ) from None
        # A writer killed in mid-line left a line without an end: close it, so that the next one stays readable.
        if self.file.tell():
            self.file.seek(-1, os.SEEK_END)
            if self.file.read(1) != b"\n":
                self.file.write(b"\n")
        return self

    def append(self, attempt: Attempt) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **asdict(attempt)}
        # a file's name may hold bytes that are no UTF-8
        self.file.write((json.dumps(line, ensure_ascii=False, default=str) + "\n").encode(errors="backslashreplace"))
        self.file.flush()

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
