"""The verb `models` of every domain, the table of published weights behind it, and the choice of a model folder.

``models`` lists what is published; ``models get NAME`` fetches it; a domain adds ``convert`` and ``check``.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cyclopts import App

from core_runtime.cli import Outcome, add, application
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.hub import hub_errors
from core_runtime.terminal import warn


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published set of weights, as data. A domain may subclass it for more columns.

    Attributes:
        name: what it is called in commands.
        holds: what it is.
        licence: of the weights, according to the model's card, which decides.
        size: of the download.
        source: hub repository, or where else it is.
        files: of that repository, in order of preference: the first that exists there is fetched. Empty: the hub does not have it.
        gated: whether an account must ask for access first.
        needs: what the user must have or do.
        use: the command that takes the fetched file, with ``{file}`` for its path.
    """

    name: str
    holds: str
    licence: str
    size: str
    source: str
    files: tuple[str, ...] = ()
    gated: bool = False
    needs: str = "network for 'models get'"
    use: str = ""

    def facts(self) -> dict[str, Any]:
        """For ``models --json``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class ModelList(Outcome):
    """What ``models`` prints."""

    published: Sequence[Published]
    notice: str = ""

    def facts(self) -> dict[str, Any]:
        return {"models": [each.facts() for each in self.published], "notice": self.notice}

    def lines(self) -> Iterable[str]:
        width = max((len(each.name) for each in self.published), default=0) + 2
        for each in self.published:
            gate = ""
            if each.gated:
                gate = ", gated"
            yield f"{each.name:{width}}{each.holds} ({each.size})"
            yield f"{'':{width}}{each.licence}{gate}; needs {each.needs}"
        if self.notice:
            yield self.notice


@dataclass(frozen=True)
class Described(Outcome):
    """Names and values, one per line: what ``models get``, ``convert`` and ``check`` print."""

    values: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        return self.values

    def lines(self) -> Iterable[str]:
        for name, value in self.values.items():
            yield f"{name}: {value}"


def models(
    published: Sequence[Published], *verbs: Callable[..., Outcome | None], command: str, notice: str = ""
) -> App:
    """The group `models` of a command.

    Args:
        published: the table.
        verbs: the domain's own: ``convert``, ``check``, and a ``get`` where the shared one is not enough.
        command: the domain's command, for examples.
        notice: printed below the table.
    """

    def list_models() -> ModelList:
        return ModelList(published, notice)

    # The help shows docstrings, and these name the domain's own command.
    list_models.__doc__ = f"""Lists published weights with licence, size and what they need.

    Example: {command} models
    """

    def get(name: str, /, *, out: Path = Path("models")) -> Described:
        return fetch(find_published(published, name), out)

    on_the_hub = [each.name for each in published if each.files] or ["NAME"]
    get.__doc__ = f"""Fetches published weights from the hub.

    Example: {command} models get {on_the_hub[0]} --out models

    Args:
        name: as in the list.
        out: folder for the files.
    """
    group = application(
        "models",
        "Lists published weights with licence, size and needs; fetches, converts and checks them."
        f"\n\nExample: {command} models",
    )
    add(group, list_models, name="list")
    group.default(group["list"].default_command)  # `models` alone lists
    # a domain's own `get` takes the place of the shared one
    group_verbs: dict[str, Callable[..., Outcome | None]] = {"get": get}
    for verb in verbs:
        group_verbs[verb.__name__] = verb
    add(group, *group_verbs.values())
    return group


def find_published(published: Sequence[Published], name: str) -> Published:
    """The published weights of that name.

    Raises:
        UserError: there is none of that name.
    """
    for each in published:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in published)
    raise UserError(f"no published model is called {name!r}", f"known: {known}")


def fetch(published: Published, out: Path) -> Described:
    """Downloads the first of its files that the hub's repository holds into ``OUT/NAME``.

    Raises:
        UserError: it is not on the hub, no access, no network.
    """
    file = download(published, out / published.name)
    values = {"name": published.name, "file": str(file), "licence": published.licence}
    if published.use:
        values["use"] = published.use.format(file=file)
    return Described(values)


def download(published: Published, folder: Path) -> Path:
    """The first of its files that the repository holds, in `folder`.

    Raises:
        UserError: it is not on the hub, no access, no network.
    """
    if not published.files:
        raise UserError(f"{published.name} is not on the hub", f"it needs {published.needs}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    by_hand = published.needs
    if published.use:
        by_hand = published.use.format(file="FILE")
    with hub_errors(published.name, published.source, f"copy {published.files[0]} and use: {by_hand}"):
        for file in published.files[:-1]:
            try:
                return Path(hf_hub_download(published.source, file, local_dir=folder))
            except LocalEntryNotFoundError:  # no network; a subclass of the next, so it must come first
                raise
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(published.source, published.files[-1], local_dir=folder))


def seal(folder: Path) -> Path:
    """Notes in the config.json of a model folder a digest of all that it says, so that `warn_if_changed` notices a later change."""
    config = folder / "config.json"
    described = json.loads(config.read_text(encoding="utf-8"))
    described["digest"] = _digest(described)
    write_text(config, json.dumps(described, indent=1))
    return folder


def warn_if_changed(described: Mapping[str, Any], folder: Path) -> None:
    """A word where the config.json of a model folder is not as it was written.

    Classes in another order, a mean or a tile size of another value are possible settings, and no check of a field would find them.

    Args:
        described: what config.json holds.
        folder: the model folder.
    """
    config = folder / "config.json"
    if "digest" not in described:
        warn(f"{config} holds no digest: nothing tells whether it is as the training left it")
    elif described["digest"] != _digest(described):
        warn(f"{config} was changed after the model was written: the model may not do what it was trained to do")


def _digest(described: Mapping[str, Any]) -> str:
    """Of everything but the digest itself."""
    content = {name: value for name, value in described.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def nearby_models() -> dict[str, str]:
    """The model folders of runs in the current folder, each with the class of model that it holds."""
    folders = {}
    for config in sorted(Path().glob("*/model/config.json")):
        try:
            described = json.loads(config.read_text(encoding="utf-8"))
            folders[str(config.parent)] = str(described.get("class", "of an unknown kind"))
        except (OSError, ValueError, AttributeError):
            continue  # damaged: loading it would say so
    return folders


def no_model(advice: str) -> UserError:
    """What a verb without ``--model`` ends with: how to get or train one, and the model folders that exist here."""
    nearby = [f"{folder} ({kind})" for folder, kind in nearby_models().items()]
    hint = advice
    if nearby:
        hint = f"model folders here: {', '.join(nearby)}; else {advice}"
    return UserError("no --model was given", hint)


def choose_model(model: str | None, *, advice: str) -> str:
    """What ``--model`` names: a folder here, else a path, else a name on the hub.

    Args:
        model: what the user gave.
        advice: how to get or train one.

    Raises:
        UserError: none was given (the folders that exist here are named), or there is no folder at that path.
    """
    if model is None:
        raise no_model(advice)
    # A name without a separator may be a folder here or a repository on the hub; loading decides.
    is_path = "/" in model or "\\" in model
    if is_path and not Path(model).is_dir():
        raise UserError(f"--model {model}: no such folder", advice)
    return model
