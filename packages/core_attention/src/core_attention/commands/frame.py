"""What all verbs share: one plain line about a mistake, and the options that mean the same everywhere.

Plain argparse: this package depends on torch and little else. A verb's file declares each of its options once, in `add_options`, and takes
them by name in `run`.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from types import ModuleType
from typing import NoReturn


class Refusal(Exception):
    """A mistake of the user, in one plain line; the command prints it and ends with 2."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message} (see {self.prog} --help)")


def parser_of(verbs: dict[str, ModuleType]) -> Parser:
    """The parser of the whole command; what it parses holds the verb's `run` under ``run`` and its options."""
    parser = Parser(
        prog="core-attention",
        description="Published attention systems: what is here, what it costs, and whether it equals the original.",
        epilog="example: core-attention show rala --tokens 4096",
    )
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in verbs.items():
        summary, _, details = (verb.__doc__ or "").partition("\n\n")
        one = subparsers.add_parser(
            name, help=summary, description=f"{summary} {details}", epilog=f"example: {verb.EXAMPLE}"
        )
        verb.add_options(one)
        one.add_argument("--json", action="store_true", dest="as_json", help="print the result as JSON")
        one.set_defaults(run=verb.run)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where it runs (default: cpu)")


def count(text: str) -> int:
    """The type of an option that is a positive whole number."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def refuse_unknown(what: str, name: str, known: Iterable[str]) -> NoReturn:
    """Refuses a name that is not among the known ones, and says which one is near."""
    names = sorted(set(known))
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = "."
    if nearest:
        hint = f"; did you mean {nearest[0]}?"
    raise Refusal(f"{name!r} is not {what}{hint} Known: {', '.join(names)}")


def check_device(name: str) -> None:
    """Refuses a device that cannot be used."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Refusal(f"the device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
