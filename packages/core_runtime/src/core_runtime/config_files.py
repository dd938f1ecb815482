"""``--config FILE.yaml``: the values of a verb's options from a file, such as the ``config.yaml`` of a run folder or a paper's own."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from cyclopts import App, Argument, ArgumentCollection, Token

from core_runtime.errors import UserError


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Gives every option that is not on the command line its value from the file named by ``--config``.

    Raises:
        UserError: the file cannot be read, or names what is not an option of this verb.
    """
    by_name = {_name(argument): argument for argument in arguments}
    config = by_name.get("config")
    if config is None or not config.tokens:
        return
    path = Path(config.tokens[-1].value)
    function = app.default_command
    published: Mapping[str, str | None] = getattr(function, "published", {})
    for key, value in read_arguments(path).items():
        name = published.get(key, str(key).replace("-", "_"))
        if name is None or value is None or value == []:  # an empty list is what a tuple of nothing is recorded as
            continue
        argument = by_name.get(name)
        if argument is None:
            # A misspelled option must not be ignored: the run would silently be another one.
            near = difflib.get_close_matches(name, [*by_name, *published], 1)
            hint = "--help lists the options"
            if near:
                hint = f"did you mean {near[0]!r}?"
            raise UserError(f"{path}: unknown option {key!r}", hint)
        if not argument.tokens:  # the command line wins
            _fill(argument, value, path)


def read_arguments(path: Path) -> dict[str, Any]:
    """The options in a YAML file: its ``arguments`` (a run folder's config.yaml), or all that it holds.

    Raises:
        UserError: it is not such a file.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "--config takes a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        hint = "each line is 'option: value', as in the config.yaml of a run folder"
        raise UserError(f"{path} is not a YAML file", hint) from None
    if entries is None:
        return {}
    if isinstance(entries, dict) and "arguments" in entries:
        entries = entries["arguments"]
    if not isinstance(entries, dict):
        raise UserError(f"{path} holds no 'option: value' lines", "see the config.yaml of a run folder for an example")
    return entries


def _name(argument: Argument) -> str:
    """A field's or parameter's own name; of a class of options, that of each of its fields."""
    return argument.keys[-1] if argument.keys else argument.field_info.name


def _fill(argument: Argument, value: Any, path: Path) -> None:
    """Appends the value as the words that the user would have typed."""
    entries = value if isinstance(value, list) else [value]
    if argument.parameter.converter is not None:  # several values in one word
        entries = [",".join(_spelled(entry) for entry in entries)]
    for index, entry in enumerate(entries):
        if isinstance(entry, (dict, list)):
            raise UserError(f"{path}: the value of {_name(argument)!r} is not understood: {entry!r}")
        token = Token(keyword=_name(argument), value=_spelled(entry), source=str(path), index=index)
        argument.append(token)


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
