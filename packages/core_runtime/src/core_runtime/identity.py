"""What an output was made from: identities of inputs and models, and the record beside each output that says so.

An output's *key* names everything that it depends on: its inputs, the model, every option that changes it, and the items that were requested. The
record stands in ``.made/NAME.json`` beside the output. It says "making" before the work begins and "done" after the output is in place, so
that an output of a killed run is never mistaken for a finished one.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from core_runtime.errors import UserError
from core_runtime.folders import write_text

Model = TypeVar("Model")
Rest = ParamSpec("Rest")
Named = TypeVar("Named", bound=str | Path | None)
_BLOCK = 65536
_SAMPLES = 16  # blocks read from a large file
_WHOLE = "CORE_RUNTIME_FULL_DIGEST"  # in the environment, so that worker processes know


@contextlib.contextmanager
def full_digests(whole: bool = True) -> Iterator[None]:
    """Within it inputs are recognised by their whole content, at the price of reading them once: ``--full-digest`` of every verb that writes.

    A copy with another modification time is then the same input, and a file with a single changed byte is another.
    """
    before = os.environ.get(_WHOLE)
    if whole:
        os.environ[_WHOLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_WHOLE, None)


def identity(path: Path, *, full: bool = False) -> dict[str, Any]:
    """What tells a file, or a folder of files, from another.

    Args:
        path: the file or folder.
        full: read all of it (always so within `full_digests`); otherwise its size, its modification time and a digest of sixteen blocks
            stand for it, which is quick for terabytes.
    """
    full = full or _WHOLE in os.environ
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    size, changed = 0, 0
    for file in files:
        state = file.stat()
        size += state.st_size
        changed = max(changed, state.st_mtime_ns)
        # the path inside the folder, so that a renamed file is another input; a single file may be renamed freely
        name = str(file.relative_to(path)) if path.is_dir() else ""
        digest.update(f"{name}\0{state.st_size}\0".encode())
        _update(digest, file, state.st_size, full)
    if full:
        return {"size": size, "sha256": digest.hexdigest()}
    return {"size": size, "changed": changed, "digest": digest.hexdigest()[:16]}


def _update(digest: Any, path: Path, size: int, full: bool) -> None:
    with path.open("rb") as file:
        if full or size <= _SAMPLES * _BLOCK:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        # evenly spread, the first and the last block included: headers and footers change most often
        for i in range(_SAMPLES):
            file.seek(i * (size - _BLOCK) // (_SAMPLES - 1))
            digest.update(file.read(_BLOCK))


def data_fingerprint(paths: Iterable[Path], *, full: bool = False) -> str:
    """One digest of the inputs of a run, in any order; `full` as of `identity`."""
    parts = sorted(json.dumps([path.name, identity(path, full=full)]) for path in paths)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def model_identity(folder: Path) -> dict[str, Any]:
    """What tells a model folder from another: all of its configuration, its weights by size and samples. Copies are the same model."""
    parts = {}
    for path in _model_files(folder):
        parts[path.name] = identity(path, full=path.suffix != ".safetensors")
        parts[path.name].pop("changed", None)  # a copied model is the same model
    return parts


def _model_files(folder: Path) -> list[Path]:
    """Configuration, weights (in shards, too), tokenizers and messages."""
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".txt") and file.is_file()
    )


def keep_latest(load: Callable[Concatenate[Named, Rest], Model]) -> Callable[Concatenate[Named, Rest], Model]:
    """Keeps what `load(folder, …)` gave last for as long as the folder holds the same files.

    A model that was replaced at the same path is loaded anew: the path alone does not say which model answers.
    """
    kept: dict[Any, Model] = {}

    @functools.wraps(load)
    def loaded(model: Named, *rest: Rest.args, **more: Rest.kwargs) -> Model:
        states = []
        for file in _model_files(Path(str(model))):
            state = file.stat()
            # a file that took another's place has a number of its own, even where size and time are the same
            states.append((file.name, state.st_size, state.st_mtime_ns, state.st_ino))
        key = (model, tuple(states), rest, tuple(sorted(more.items())))
        if key not in kept:
            kept.clear()  # before the next one takes memory
            kept[key] = load(model, *rest, **more)
        return kept[key]

    return loaded


def spelled(value: Any) -> Any:
    """A key as JSON holds it, so that a key read back compares equal to a fresh one."""
    return json.loads(json.dumps(value, sort_keys=True, default=_spell))


def _spell(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two keys, in words: ``threshold (0.5, now 0.7)``, ``the input slide.svs``."""
    if before == now:
        return []
    # Mappings are compared entry by entry down to identities of files, whose digests would mean nothing to the user.
    if isinstance(before, Mapping) and isinstance(now, Mapping) and not {"digest", "sha256"} & {*before, *now}:
        changed = []
        for key in sorted({*before, *now}, key=str):
            changed += differences(before.get(key), now.get(key), str(key))
        return changed
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.keys() != now.keys():
        return [f"way of recognising {name or 'its inputs'} (with or without --full-digest)"]
    if isinstance(before, (Mapping, list)) or isinstance(now, (Mapping, list)):
        return [name or "its inputs"]
    return [f"{name} ({before}, now {now})"]


def _record(output: Path) -> Path:
    return output.parent / ".made" / f"{output.name}.json"


def begin(output: Path, key: Mapping[str, Any]) -> None:
    """Records that an output is being made."""
    write_text(_record(output), json.dumps({"state": "making", "key": spelled(key)}) + "\n")


def finish(output: Path, key: Mapping[str, Any]) -> None:
    """Records that an output is complete and in place."""
    write_text(_record(output), json.dumps({"state": "done", "key": spelled(key)}) + "\n")


@contextlib.contextmanager
def begun(output: Path, key: Mapping[str, Any]) -> Iterator[None]:
    """`begin` and `finish` around the making of an output; a failure leaves no record, and no folder that was not there before."""
    # innermost first, the order in which they are removed
    folders = [folder for folder in (_record(output).parent, *output.parents) if not folder.exists()]
    begin(output, key)
    try:
        yield
    except BaseException:
        if not output.exists():
            _record(output).unlink(missing_ok=True)
            for folder in folders:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        raise
    finish(output, key)


def is_own_output(path: Path) -> bool:
    """Whether a file or folder is an output of this project, to be passed over when inputs are looked for."""
    return _record(path).is_file()


def is_done(output: Path, key: Mapping[str, Any]) -> bool:
    """Whether an output exists and was made from exactly this.

    Raises:
        UserError: it exists and was made from something else, or has no record of what it was made from.
    """
    if not output.exists():
        return False
    hint = "--overwrite replaces it, --out names another folder"
    record = _read_record(output)
    if record is None:
        raise UserError(f"{output} is already there, with no record of what it was made from", hint)
    state, before = record
    if state != "done":  # of a killed run, or of one before it: neither is known to be whole
        return False
    changed = differences(before, spelled(key))
    if changed:
        raise UserError(f"{output} was made with another {', '.join(changed)}", hint)
    return True


def key_of(output: Path) -> Any:
    """The key of a finished output, as JSON holds it; None where it is not there, not finished, or has no record."""
    record = _read_record(output)
    if record is None or record[0] != "done" or not output.exists():
        return None
    return record[1]


def _read_record(output: Path) -> tuple[str, Any] | None:
    """State and key of an output; None without a record that can be read."""
    try:
        record = json.loads(_record(output).read_text(encoding="utf-8"))
        return record["state"], record["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_inputs_as_outputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Makes sure, before anything is computed, that no output would replace an input.

    Raises:
        UserError: one would, is a folder that holds an input, or lies inside an input that is a folder (a series, a recording).
    """
    sources: set[Path] = set()
    folders: set[Path] = set()
    for path in inputs:
        whole = path.resolve()
        sources |= {whole, *whole.parents}  # a folder that holds an input would take it along
        if whole.is_dir():
            folders.add(whole)
    for output in outputs:
        whole = output.resolve()
        if whole in sources:
            raise UserError(f"the output {output} would replace an input", "--out names another folder")
        if folders.intersection(whole.parents):
            raise UserError(f"the output {output} would lie inside an input", "--out names another folder")


def refuse_foreign_folder(out: Path, inputs: Iterable[Path], *, overwrite: bool, may_be_file: bool = False) -> None:
    """Makes sure that an output which is replaced as a whole is ours: ``--overwrite`` never deletes the user's own files.

    Raises:
        UserError: it is there and `overwrite` is off, is a folder that we did not write, or would replace an input; it is a file and
            should be a folder.
    """
    refuse_inputs_as_outputs(inputs, [out])
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another place")
    if out.is_file() and not may_be_file:
        raise UserError(f"{out} is a file", "--out names a folder")
    if out.is_dir() and any(out.iterdir()) and not is_own_output(out):
        raise UserError(f"{out} holds files that were not written by this command", "--out names another folder")
