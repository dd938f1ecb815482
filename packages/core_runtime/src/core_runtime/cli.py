"""The frame of every command: the app factory, the outcome of a verb, ``--json`` and ``--config`` of all verbs, and the error policy.

Exit status: 0 done, 1 some items failed (each is named), 2 unusable input or usage. A `UserError` is one or two plain lines; an unexpected
error is one line and an ``error.log`` with the traceback, so that no tensor and no patient's path reaches the terminal.
"""

import errno
import inspect
import json
import logging
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError

from core_runtime.config_files import fill_from_file
from core_runtime.errors import UserError, clean
from core_runtime.figures import MISSING
from core_runtime.folders import current_run_folder
from core_runtime.identity import full_digests
from core_runtime.terminal import note

_VERBOSE = Annotated[bool, Parameter(alias="-v", help="Report progress in more detail.")]
_JSON = Annotated[bool, Parameter(help="Print one JSON document for programs instead of text.")]
_CONFIG = Annotated[
    Path | None,
    Parameter(metavar="FILE.yaml", help="Values of the other options; an option on the command line wins."),
]
_FULL_DIGEST = Annotated[
    bool, Parameter(help="Recognise inputs by their whole content, not by size, modification time and samples.")
]
_FRAME = {"json": (_JSON, False), "config": (_CONFIG, None), "verbose": (_VERBOSE, False)}
_FRAME_OF_WRITING = {**_FRAME, "full_digest": (_FULL_DIGEST, False)}


class Outcome:
    """The result of a verb; each verb has its own, with the fields that a notebook wants.

    Attributes:
        code: exit status of the command.
    """

    code: int = 0

    def facts(self) -> Any:
        """For ``--json``: plain containers, numbers, paths, arrays. NaN becomes null."""
        raise NotImplementedError

    def lines(self) -> Iterable[str]:
        """For the terminal."""
        raise NotImplementedError


def application(name: str, help: str) -> App:
    """An empty command, or a group of one, with the house's settings; `add` gives it verbs."""
    return App(
        name=name,
        help=help,
        help_format="plaintext",
        help_flags=["--help", "-h"],
        version_flags=[],
        config=fill_from_file,
        default_parameter=Parameter(negative=()),
    )


def add(
    app: App, *verbs: Callable[..., Outcome | None], name: str = "", published: Mapping[str, str | None] | None = None
) -> None:
    """Makes verbs of functions: their parameters are the options, their docstrings the help, `Outcome` is printed.

    Args:
        app: gets the verbs, and with them ``--json``, ``--config`` and ``--verbose``; those that write, ``--full-digest`` too.
        verbs: a function's name is the verb's.
        name: another name for a single verb.
        published: names of options in a paper's own configuration files → ours, or None for those without meaning here.
    """
    for function in verbs:
        app.command(_framed(function, app, published or {}), name=name or function.__name__.replace("_", "-"))


def _framed(function: Callable[..., Outcome | None], app: App, published: Mapping[str, str | None]) -> Any:
    """`function` as the command line calls it: with the options of the frame, and its outcome printed."""

    @wraps(function)
    def framed(
        *positional: Any,
        json: bool = False,
        config: Path | None = None,
        verbose: bool = False,
        full_digest: bool = False,
        **named: Any,
    ) -> int:
        if verbose:
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr, force=True)
        with full_digests(full_digest):
            outcome = function(*positional, **named)
        if outcome is None:
            return 0
        show(outcome, as_json=json)
        return outcome.code

    # cyclopts reads the signature: the frame's options are appended to the function's own.
    signature = inspect.signature(function, eval_str=False)
    frame = _FRAME
    if _replaces(signature):
        frame = _FRAME_OF_WRITING
    parameters = [*signature.parameters.values()]
    for option, (annotation, default) in frame.items():
        parameters.append(
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    framed.__signature__ = signature.replace(parameters=parameters, return_annotation=int)  # pyright: ignore[reportAttributeAccessIssue]
    framed.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    framed.published = published  # pyright: ignore[reportAttributeAccessIssue]
    return framed


def _replaces(signature: inspect.Signature) -> bool:
    """Whether a verb writes outputs that a second run meets: it has ``--overwrite``, itself or in a class of options."""
    parameters = signature.parameters
    if "overwrite" in parameters:
        return True
    return any(hasattr(parameter.annotation, "overwrite") for parameter in parameters.values())


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Prints an outcome for a program or for a reader."""
    if as_json:
        print(json.dumps(plain(outcome.facts()), ensure_ascii=False, allow_nan=False))
        return
    for line in outcome.lines():
        print(line)


def run(app: App, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command under the error policy and exits with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words  # read by hand: a usage error is reported as JSON, too, before anything is parsed
    # a box in a picture shows by itself that no font has the letter: a line for each letter says no more
    warnings.filterwarnings("ignore", message=MISSING)
    started = current_run_folder.set(None)
    try:
        code = _call(app, words)
        sys.stdout.flush()
    except UserError as error:
        code = _complain(error.message, error.hint, as_json)
    except KeyboardInterrupt:
        note.print("Stopped. Run the same command again to go on.")
        code = 130  # the shells' status of a program ended by SIGINT
    except BrokenPipeError:  # the reader went away (| head): nothing is left to report
        # Python flushes stdout once more at exit, which would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # of whatever class: safetensors has one of its own
            advice = "make room, or choose a folder on another disk with --out, and run the command again"
            code = _complain("the disk is full", advice, as_json)
        else:
            code = _unexpected(error, as_json)
    finally:
        current_run_folder.reset(started)
    raise SystemExit(code)


def _call(app: App, words: list[str]) -> int:
    """Parses the words and calls the verb."""
    try:
        code = app(
            words,
            exit_on_error=False,
            print_error=False,
            verbose=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        command = " ".join([*app.name[:1], *(error.command_chain or ())])
        listed = "options"
        if isinstance(error, UnknownCommandError):
            listed = "verbs"
        raise UserError(str(error), f"'{command} --help' lists the {listed}") from None
    if isinstance(code, int):
        return code
    # The help was printed, so no verb ran: asked for, that is success; after a command without a verb, a usage error.
    asked_for_help = not {"--help", "-h"}.isdisjoint(words)
    return 0 if asked_for_help else 2


def _complain(message: str, hint: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": clean(message), "hint": clean(hint)}))
    note.print(f"Error: {clean(message)}", style="red", markup=False, soft_wrap=True)
    if hint:
        note.print(f"  {clean(hint)}", markup=False, soft_wrap=True)
    return 2


def _unexpected(error: Exception, as_json: bool) -> int:
    """Keeps the traceback in the run folder, or in the system's temporary folder, and says where."""
    header = time.strftime("%Y-%m-%dT%H:%M:%S ") + " ".join(sys.argv)
    text = f"{header}\n{''.join(traceback.format_exception(error))}\n"
    where = "no folder could be written for the details"
    for folder in (current_run_folder.get(), Path(tempfile.gettempdir())):
        if folder is None:
            continue
        path = folder / "error.log"
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(text)
        except OSError:
            continue
        where = f"the details are in {path}"
        break
    return _complain(f"unexpected {type(error).__name__}; {where}", "please report it with that file", as_json)


def plain(value: Any) -> Any:
    """`value` as JSON can express it: plain containers; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool, type(None))):
        return value
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    return str(value)
