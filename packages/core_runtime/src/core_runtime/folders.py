"""Outputs that are whole or absent, and run folders that say how they were made."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from core_runtime.errors import UserError, counted, few
from core_runtime.options import RunOptions
from core_runtime.terminal import warn

_LONGEST_NAME = 150  # bytes of an output's name, so that there is room for what stands beside it while it is written
current_run_folder: ContextVar[Path | None] = ContextVar("current_run_folder", default=None)
_HOST = "".join(c if c.isalnum() else "_" for c in platform.node())


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it into place at the end: the file (or folder) is whole or absent, even after a kill.

    What killed writers of the same file left behind is removed first.

    Raises:
        UserError: the location cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.part")
    hint = "choose a folder with --out that can be written and has room"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary.touch()  # a location that cannot be written shows before hours of work, not after
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", hint) from error
    try:
        yield temporary
        _put(temporary, path)
    except OSError as error:
        # A full disk is the user's to mend; any other OSError comes from the work itself and keeps its own message.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise UserError(f"cannot write {path}: {error.strerror}", hint) from error
        raise
    finally:
        _remove(temporary)


def _put(new: Path, path: Path) -> None:
    """Renames into place. A folder that holds something cannot be renamed over: the old one is moved aside first."""
    if not (new.is_dir() and path.is_dir() and not path.is_symlink()):
        os.replace(new, path)
        return
    old = path.with_name(f".{path.name}.{_HOST}-old-{os.getpid()}.part")
    _remove(old)
    os.replace(path, old)
    os.replace(new, path)
    _remove(old)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes what killed processes of this machine left beside `path`; another machine's process may still be at work."""
    for left in path.parent.glob(f".{_escaped(path.name)}.{_HOST}-*.part"):
        pid = left.name.removesuffix(".part").rpartition("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            _remove(left)


def _escaped(name: str) -> str:
    """`name` for a glob pattern, in which ``*``, ``?`` and ``[`` would be wildcards."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 sends nothing; it only checks the process
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        pass
    return True


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_apart(out: Path, data: Path, *, below: bool = False) -> None:
    """Refuses an output folder among the inputs.

    Args:
        out: the output folder.
        data: the inputs; only a folder matters.
        below: allow one in a folder of its own below the inputs, for verbs that pass over our own outputs there.

    Raises:
        UserError: `out` is `data`, or lies in it.
    """
    if not data.is_dir():
        return
    if out.resolve() == data.resolve():
        raise UserError(f"the output folder {out} is that of the inputs", "give --out a folder of its own")
    if not below and out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"the output folder {out} lies in the inputs, {data}", "give --out a folder outside of them")


def name_in(root: Path, file: Path) -> str:
    """What the user calls a file: its path within the folder `root`, its own name where `root` is the file itself, else its whole path."""
    folder = root if root.is_dir() else root.parent
    if file.is_relative_to(folder):
        return file.relative_to(folder).as_posix()
    return file.as_posix()


def output_names(inputs: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """A name for the output of each input: its path without its ending, in one part.

    Inputs whose names would be the same (also where capitals do not count), hidden, empty, too long or taken get some digits of
    their path behind it. So no two inputs share an output, and an input has the same one in every run over the same inputs.

    Args:
        inputs: paths as the user knows them, such as ``pages/start.png``; no two are the same.
        taken: names that stand in the same folder.
    """
    plain = []
    for path in inputs:
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if parts:
            # `start` of start.png, and all of a name that has no ending
            parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
        plain.append("_".join(parts))
    counts = Counter(name.casefold() for name in plain)
    others = {name.casefold() for name in taken}
    names = []
    for path, name in zip(inputs, plain, strict=True):
        begin = name.lstrip(".").encode()[:_LONGEST_NAME].decode(errors="ignore")
        if begin != name or not name or counts[name.casefold()] > 1 or name.casefold() in others:
            begin += "-" + hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:8]
        names.append(begin.lstrip("-"))
    return names


def leave_out_broken_links(folder: Path, listed: Iterable[Path]) -> list[Path]:
    """The files among what a folder lists; links to files that are not there are named in a warning."""
    files, broken = [], []
    for path in listed:
        if path.is_file():
            files.append(path)
        elif path.is_symlink() and not path.exists():
            broken.append(path.name)
    if broken:
        warn(f"{folder}: {counted(len(broken), 'link')} to files that are not there, left out: {few(broken)}")
    return files


def fingerprint(value: Mapping[str, Any]) -> str:
    """A short digest of parameters, the same for equal values in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def open_run(
    run: RunOptions, arguments: Mapping[str, Any], *, packages: Iterable[str] = (), data: str = ""
) -> dict[str, Any]:
    """Opens a run folder and writes its ``config.yaml`` (all arguments, versions, data fingerprint).

    A run that is resumed must have the same arguments and data; the results of one that is overwritten are removed.

    Args:
        run: the folder, whether its run is resumed or overwritten, and the options that are recorded (`RunOptions.recorded`).
        arguments: those that the verb has besides, as `core_runtime.options.flat` gives them.
        packages: distributions whose versions are recorded beside Python's.
        data: `data_fingerprint` of the inputs.

    Returns:
        What may go with the model: all recorded arguments but those that name files here.

    Raises:
        UserError: the folder holds a run that is neither resumed nor overwritten, or the run to resume differs.
    """
    folder = run.out
    config = folder / "config.yaml"
    # through JSON, so that what is compared with the file has the file's types (no tuples, no paths)
    plain = json.loads(json.dumps({**arguments, **run.recorded()}, default=str))
    if config.exists() and not run.overwrite:
        before = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        arguments_before = before.get("arguments", {})
        if not run.resume:
            raise UserError(
                f"{folder} already holds a run",
                "--resume goes on with it, --overwrite begins anew, --out names another folder",
            )
        names = sorted({*plain, *arguments_before})
        changed = [name for name in names if plain.get(name) != arguments_before.get(name)]
        if changed:
            raise UserError(
                f"{folder}: the run to resume had other values of {', '.join(changed)}",
                f"use its arguments again ('--config {config}'), or --overwrite",
            )
        if data != before.get("data", ""):
            raise UserError(f"{folder}: the data have changed since the run began", "use --overwrite to begin anew")
        current_run_folder.set(folder)
        return _without_paths(plain)
    # Only what a run writes is removed, never the folder: the user may keep notes in it.
    if config.exists():
        for name in ("checkpoints", "model", "predictions", "figures", "metrics.csv", "report.html", "config.yaml"):
            _remove(folder / name)
    versions = {"python": platform.python_version()}
    for package in packages:
        versions[package] = _version(package)
    record = {
        "command": " ".join(sys.argv),
        "arguments": plain,
        "versions": versions,
        "data": data,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_text(config, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    current_run_folder.set(folder)
    return _without_paths(plain)


def _without_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that hold a path: it means nothing elsewhere, and may name a patient."""
    pathless = {}
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        if not any(isinstance(each, str) and os.path.isabs(each) for each in values):
            pathless[name] = value
    return pathless


def abandon_run(folder: Path) -> None:
    """Takes away a run that failed before there was anything to go on with; what else stands in the folder stays."""
    for name in ("cache", "checkpoints", "metrics.csv", "config.yaml"):
        _remove(folder / name)
    if not any(folder.iterdir()):
        folder.rmdir()


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # not above: `--help` needs no reader of metadata

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
