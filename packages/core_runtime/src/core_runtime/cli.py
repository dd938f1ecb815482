"""The frame of every command: the app factory, the options that all verbs share, and what happens on an error.

Exit status: 0 done, 1 some items failed (each is named), 2 unusable input or usage. A `UserError` is one or two plain lines; an unexpected
error is one line and an ``error.log`` with the traceback, so that no tensor and no patient's path reaches the terminal.
"""

import difflib
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core_runtime.errors import UserError, clean
from core_runtime.folders import current_run_folder

T = TypeVar("T")
# Typer ships click under a private name or depends on it, by version; its public exception leads to the base class of both.
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

note = Console(stderr=True, highlight=False)  # what a person reads while waiting; results go to stdout


class DeviceName(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class PrecisionName(StrEnum):
    """Lightning's names of numeric precision."""

    full = "32-true"
    bf16 = "bf16-mixed"
    fp16 = "16-mixed"
    double = "64-true"


class ModelsAction(StrEnum):
    """What ``models`` does."""

    list = "list"
    get = "get"
    convert = "convert"
    check = "check"


def config_option(aliases: Mapping[str, str | None] | None = None) -> Any:
    """A ``--config FILE.yaml`` option whose entries become the defaults of the verb's other options; a flag on the command line wins.

    Args:
        aliases: other names that a file may use (a paper's published configuration) → our parameter name, or None for entries that
            are known and carry nothing for us.
    """

    def read(ctx: typer.Context, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            entries = yaml.safe_load(value.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {value}: {error.strerror}", "--config takes a YAML file") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UserError(
                f"{value} is not a YAML file", "each line is 'option: value', as in the config.yaml of a run folder"
            ) from None
        if entries is None:
            entries = {}
        if not isinstance(entries, dict):
            raise UserError(
                f"{value} holds no 'option: value' lines", "see the config.yaml of a run folder for an example"
            )
        entries = entries.get("arguments", entries)  # a run folder's own config.yaml
        known = {p.name for p in ctx.command.params}
        defaults = dict(ctx.default_map or {})
        for key, entry in entries.items():
            name = (aliases or {}).get(key, str(key).replace("-", "_"))
            if name is None:
                continue
            if name not in known:
                near = difflib.get_close_matches(name, [*known, *(aliases or {})], 1)
                raise UserError(
                    f"{value}: unknown option {key!r}",
                    f"did you mean {near[0]!r}?" if near else "--help lists the options",
                )
            defaults[name] = entry
        ctx.default_map = defaults
        return value

    return typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="Defaults for the other options; a flag wins over the file.",
        callback=read,
        is_eager=True,
    )


Model = Annotated[str | None, typer.Option("--model", help="Model folder (a path with a separator) or hub name.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Device = Annotated[DeviceName, typer.Option("--device", help="Where to compute; auto takes CUDA, then MPS, then CPU.")]
Precision = Annotated[PrecisionName, typer.Option("--precision", help="Numeric precision.")]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Parallel worker processes; 0 or 1 works in this process.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Config = Annotated[Path | None, config_option()]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs instead of text.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in the same folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are already there.")]


def _verbose(value: bool) -> None:
    if value:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr, force=True)


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more about what is done.", callback=_verbose, is_eager=True)
]


def application(name: str, help: str) -> typer.Typer:
    """An empty command (or group) with the house's settings; add verbs with ``@app.command()``."""
    app = typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def group() -> None:  # with a callback, an app of one verb still needs the verb's name
        pass

    group.__doc__ = help
    return app


def run(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Runs a command under the error policy and exits with its status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    started = current_run_folder.set(None)
    try:
        code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        code = _complain(error.message, error.hint, as_json)
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            note.print(str(error), markup=False)
            code = 2
        else:
            context = getattr(error, "ctx", None)
            hint = f"'{context.command_path} --help' lists the options" if context else ""
            code = _complain(error.format_message(), hint, as_json)  # pyright: ignore[reportAttributeAccessIssue]
    except (KeyboardInterrupt, typer.Abort):
        note.print("Stopped. Run the same command again to go on.")
        code = 130
    except BrokenPipeError:  # the reader went away (| head): nothing to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _unexpected(error, as_json)
    finally:
        current_run_folder.reset(started)
    raise SystemExit(code if isinstance(code, int) and not isinstance(code, bool) else 0)


def _complain(message: str, hint: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": clean(message), "hint": clean(hint)}))
    note.print(f"Error: {clean(message)}", style="red", markup=False, soft_wrap=True)
    if hint:
        note.print(f"  {clean(hint)}", markup=False, soft_wrap=True)
    return 2


def _unexpected(error: Exception, as_json: bool) -> int:
    text = (
        time.strftime("%Y-%m-%dT%H:%M:%S ")
        + " ".join(sys.argv)
        + "\n"
        + "".join(traceback.format_exception(error))
        + "\n"
    )
    for folder in (current_run_folder.get(), Path(tempfile.gettempdir())):
        if folder is None:
            continue
        path = folder / "error.log"
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(text)
            break
        except OSError:
            continue
    else:
        path = None
    where = f"the details are in {path}" if path else "no folder could be written for the details"
    return _complain(f"unexpected {type(error).__name__}; {where}", "please report it with that file", as_json)


def emit(result: Any, as_json: bool, human: Callable[[], None]) -> None:
    """Prints `result` as one JSON document, or lets `human` print it for a person. NaN becomes null."""
    if as_json:
        print(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False))
    else:
        human()


@dataclass(frozen=True)
class Result:
    """What a verb ends with: facts for programs, lines for people, an exit status."""

    facts: Any
    show: Callable[[], None]
    code: int = 0


def end(result: Result, as_json: bool) -> None:
    """Prints a result (`emit`) and ends with its exit status."""
    emit(result.facts, as_json, result.show)
    if result.code:
        raise typer.Exit(result.code)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, (str, int, bool, type(None))):
        return value
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    return str(value)


def progress(description: str, total: int | None = None) -> Progress:
    """A progress bar on standard error (silent where that is no terminal), used as a context manager with one task already added."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=note,
        transient=True,
        disable=not note.is_terminal,
    )
    bar.add_task(description, total=total)
    return bar


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` behind a progress bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # pyright: ignore[reportArgumentType]
    with progress(description, total) as bar:
        for item in items:
            yield item
            bar.advance(bar.task_ids[0])


def resolve_device(name: DeviceName | str) -> str:
    """The torch device of ``--device``: auto takes CUDA, then MPS, then CPU.

    Raises:
        UserError: the device asked for is not there.
    """
    import torch

    name = str(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        raise UserError(
            f"--device {name}: torch {torch.__version__} sees no such device here",
            "use --device auto, or install a build of torch for it",
        )
    return name
