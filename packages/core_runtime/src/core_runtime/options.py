"""Options declared once: a frozen dataclass whose fields the command line, ``--config``, ``config.yaml`` and Python callers read alike.

A field's name is the option's name, its annotation the type and the limits, its line under ``Attributes:`` the help::

    @options
    class EventOptions:
        \"""How probabilities become events.

        Attributes:
            threshold: probability that an event reaches; default: the model's own.
            merge_gap: events closer than this become one, in seconds.
        \"""

        threshold: Annotated[float | None, Between(0, 1)] = None
        merge_gap: Annotated[float, AtLeast(0)] = 0.0

A verb takes such classes as keyword arguments; their fields appear side by side in ``--help``.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from core_runtime.errors import UserError

Class = TypeVar("Class", bound=type)


def Between(low: float, high: float) -> Parameter:
    """Limits of a number, both included."""
    return Parameter(validator=Number(gte=low, lte=high), metavar=f"{low:g}..{high:g}")


def AtLeast(low: float) -> Parameter:
    """The least value of a number."""
    return Parameter(validator=Number(gte=low), metavar=f"≥{low:g}")


def Above(low: float) -> Parameter:
    """A number greater than `low`."""
    return Parameter(validator=Number(gt=low), metavar=f">{low:g}")


def Flag(off: str = "") -> Parameter:
    """A switch, with the name of its opposite where it is on by default: ``Flag("--stop")``."""
    return Parameter(negative=off or ())


def _comma_separated(kind: Callable[[str], Any], words: str, count: int | None = None) -> Parameter:
    """A parameter of one word whose parts stand between commas."""

    def convert(annotation: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
        given = ",".join(token.value for token in tokens)
        parts = [part.strip() for part in given.split(",") if part.strip()]
        try:
            values = tuple(kind(part) for part in parts)
        except ValueError:  # reported below, as a wrong count is
            values = ()
        if not values or (count is not None and len(values) != count):
            raise ValueError(f"{given!r} is not understood; write {words}")
        return values

    return Parameter(converter=convert, n_tokens=1, accepts_keys=False, metavar=words.split(", ")[0].upper())


# Several values in one word. A YAML file may hold a list instead.
Names = Annotated[tuple[str, ...], _comma_separated(str, "name,name,…")]
Numbers = Annotated[tuple[float, ...], _comma_separated(float, "0,0.3,0.6")]
Integers = Annotated[tuple[int, ...], _comma_separated(int, "0,3,7")]
IntegerPair = Annotated[tuple[int, int], _comma_separated(int, "a,b", count=2)]
Pair = Annotated[tuple[float, float], _comma_separated(float, "a,b", count=2)]
Box = Annotated[tuple[float, float, float, float], _comma_separated(float, "left,bottom,right,top", count=4)]

# The options that mean the same in every command.
Model = Annotated[str | None, Parameter(help="Model folder, or the name of a published model.")]
Out = Annotated[Path, Parameter(alias="-o", help="Folder for the results.")]
OutFile = Annotated[Path, Parameter(alias="-o")]  # its command's docstring says which files it may be
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Parameter(help="Where to compute; auto takes CUDA, then MPS, then CPU."),
]
Precision = Annotated[
    Literal["32-true", "bf16-mixed", "16-mixed", "64-true"], Parameter(help="Numeric precision of training.")
]
Workers = Annotated[int, AtLeast(0), Parameter(help="Parallel worker processes; 0 or 1 works in this process.")]
Threads = Annotated[int | None, AtLeast(1), Parameter(help="Threads of torch in each process; default: torch's own.")]
Seed = Annotated[int, AtLeast(0), Parameter(help="Seed of every random choice.")]
Resume = Annotated[bool, Parameter(help="Go on with an interrupted run in the same folder.")]
Overwrite = Annotated[bool, Parameter(help="Replace results that are already there.")]
SkipErrors = Annotated[bool, Flag("--stop"), Parameter(help="Go on after an item that fails, or stop there.")]
Full = Annotated[bool, Flag("--quick"), Parameter(help="A longer run with better results, in minutes.")]


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def options(declared: Class) -> Class:
    """Makes a class of options: a frozen dataclass with keyword-only fields whose limits are checked on every way of construction.

    The class's own ``__post_init__`` runs after the checks of single fields; it raises `UserError` for values that do not
    fit together. A field whose default is None may be left open, whatever its annotation: its readers get it filled in.
    """
    for name, annotation in declared.__annotations__.items():
        # under `from __future__ import annotations` it is text, and says None itself
        if getattr(declared, name, ...) is None and not isinstance(annotation, str):
            declared.__annotations__[name] = _open(annotation)
    check_together: Callable[[Any], None] | None = declared.__dict__.get("__post_init__")

    def check(self: Any) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            check_value(field.name, hints[field.name], getattr(self, field.name))
        if check_together is not None:
            check_together(self)

    declared.__post_init__ = wraps(check_together)(check) if check_together else check
    return Parameter(name="*")(dataclass(frozen=True, kw_only=True)(declared))  # pyright: ignore[reportReturnType]


def _open(annotation: Any) -> Any:
    """`annotation`, or None. The parser may ask pydantic, where something has loaded it, whether a default fits its type."""
    if typing.get_origin(annotation) is Annotated:
        return Annotated[annotation.__origin__ | None, *annotation.__metadata__]
    return annotation | None


def check_value(name: str, annotation: Any, value: Any) -> None:
    """Checks one value against its declaration: limits, and the choices of a ``Literal``.

    Raises:
        UserError: it does not fit; the message names the option.
    """
    if value is None:
        return
    option = "--" + name.replace("_", "-")
    choices = _choices(annotation)
    if choices and value not in choices:
        raise UserError(f"{option}: {value!r} is not one of {', '.join(map(str, choices))}")
    for limit in getattr(annotation, "__metadata__", ()):
        if not isinstance(limit, Parameter):
            continue
        validators: Any = limit.validator  # a tuple, whatever it was given as
        for validator in validators:
            try:
                validator(type(value), value)
            except (ValueError, TypeError) as error:
                raise UserError(f"{option} {value}: {error}") from None


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a ``Literal`` (perhaps ``Annotated``, perhaps with None) allows; empty for other annotations."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    # `Literal[...] | None` is a union: the literals are among its members
    choices: list[Any] = []
    for member in typing.get_args(annotation):
        if typing.get_origin(member) is Literal:
            choices += typing.get_args(member)
    return tuple(choices)


def flat(**arguments: Any) -> dict[str, Any]:
    """Arguments under their option names, classes of options taken apart: what ``config.yaml`` holds and ``--config`` reads.

    Paths become absolute.

    Example: ``flat(paths=paths, model=model, recipe=recipe)``.
    """
    entries: dict[str, Any] = {}
    for name, value in arguments.items():
        if is_dataclass(value) and not isinstance(value, type):
            entries |= flat(**{field.name: getattr(value, field.name) for field in fields(value)})
        else:
            entries[name] = _plain(value)
    return entries


def _plain(value: Any) -> Any:
    """`value` as YAML can express it."""
    if isinstance(value, Path):
        return str(value.resolve())  # the file may be read from another folder
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    return value


@options
class RunOptions:
    """How a training run is carried out: the same options in every `train`.

    Attributes:
        devices: devices to train on.
        nodes: machines to train on; start the same command on each.
    """

    out: Out = Path("run")
    device: Device = "auto"
    devices: Annotated[int, AtLeast(1)] = 1
    nodes: Annotated[int, AtLeast(1)] = 1
    precision: Precision = "32-true"
    workers: Workers = 0
    threads: Threads = None
    seed: Seed = 0
    resume: Resume = False
    overwrite: Overwrite = False

    def recorded(self) -> dict[str, Any]:
        """The entries of ``config.yaml``: what results may depend on, not where they are written."""
        entries = flat(run=self)
        for name in ("out", "resume", "overwrite"):
            del entries[name]
        return entries


@options
class BulkOptions:
    """How a verb works through its items: the same options in every verb over many files."""

    workers: Workers = 1
    threads: Threads = None
    skip_errors: SkipErrors = True
    overwrite: Overwrite = False

    def on(self, device: str) -> "BulkOptions":
        """The same, in this process alone where the device is not the CPU: processes would each load the model onto the one GPU."""
        if device == "cpu":
            return self
        return replace(self, workers=0)


def use_threads(threads: int | None) -> None:
    """Sets torch's threads in this process; None leaves its own choice."""
    if threads is None:
        return
    import torch

    torch.set_num_threads(threads)


def resolve_device(name: str) -> str:
    """The torch device of ``--device``: auto takes CUDA, then MPS, then CPU.

    Raises:
        UserError: the device asked for is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise UserError(
            f"--device {name}: torch {torch.__version__} sees no such device here",
            "use --device auto, or install a build of torch for it",
        )
    return name
