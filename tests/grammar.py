"""The grammar that every domain's command obeys, as data: verbs, their options, and how a verb is called in-process."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cyclopts import App

from core_runtime.cli import run
from core_runtime.domains import Domain, domains

EVERYWHERE = {"--json", "--verbose", "--config"}
VERBS: dict[str, set[str]] = {
    "sample": {"--seed", "--overwrite"},
    "inspect": set(),
    "train": {"--out", "--device", "--precision", "--workers", "--threads", "--seed", "--resume", "--overwrite"},
    "evaluate": {"--model", "--out", "--device", "--overwrite"},
    "predict": {"--model", "--out", "--device", "--workers", "--threads", "--overwrite"},
    "demo": {"--full", "--seed", "--overwrite"},
    "models": set(),
}
HEAVY = {"torch", "torchvision", "lightning", "transformers", "timm", "monai"}
HEAVY |= {"rasterio", "mne", "h5py", "cv2", "openslide", "matplotlib", "pandas", "sklearn", "scipy"}


def installed() -> list[Domain]:
    """The domains under test. One that cannot be imported fails the collection: it would silently escape every test."""
    found, broken = domains()
    assert not broken, f"cannot be imported: {broken}"
    return list(found.values())


def load_app(domain: Domain) -> App:
    module, _, name = domain.app.partition(":")
    return getattr(import_module(module), name)


def command_of(domain: Domain) -> App:
    """The command of a domain; for a group inside a command ("remote-sensing maps") that group."""
    command = load_app(domain)
    for part in domain.name.split()[1:]:
        command = command[part]
    return command


def verbs_of(domain: Domain) -> dict[str, App]:
    """The verbs of a domain by name, without those of help."""
    command = command_of(domain)
    return {name: command[name] for name in command if not name.startswith("-")}


def options_of(verb: App) -> set[str]:
    """The names of a verb's options."""
    return {name for argument in verb.assemble_argument_collection() for name in argument.names}


def needs_an_argument(verb: App) -> bool:
    """Whether a verb cannot be called without words."""
    return any(argument.required for argument in verb.assemble_argument_collection())


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def one_line_error(self) -> bool:
        """Exit 2 with one or two plain lines on standard error."""
        return (
            self.code == 2
            and self.err.startswith("Error: ")
            and len(self.err.splitlines()) <= 2
            and "Traceback" not in self.err
        )


def call(domain: Domain, *arguments: Any) -> Result:
    """Calls a verb in this process exactly as the console script does."""
    words: Sequence[str] = [*domain.name.split()[1:], *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run(load_app(domain), list(words))
        except SystemExit as end:
            code = end.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())
