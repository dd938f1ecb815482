"""``ieeg stream``."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from core_runtime.errors import UserError
from core_runtime.options import (
    AtLeast,
    Between,
    Device,
    Model,
    Overwrite,
    Resume,
    Threads,
    options,
    resolve_device,
    use_threads,
)
from ieeg.recordings.settings import Cleaning, Montage


@options
class AlarmOptions:
    """When an alarm begins and ends.

    Attributes:
        threshold: probability at which an alarm begins; default: the model's own.
        release: probability below which it ends; default: 0.8 of the threshold.
        confirm: number of consecutive segments that must reach the threshold.
    """

    threshold: Annotated[float | None, Between(0, 1)] = None
    release: Annotated[float | None, Between(0, 1)] = None
    confirm: Annotated[int, AtLeast(1)] = 1


@options
class FollowOptions:
    """How a growing recording is followed.

    Attributes:
        follow: wait for more data at the end.
        poll: seconds between two looks at the file.
        patience: with --follow: end after this many seconds without new data.
        every: print a line for every segment, not only for alarms.
    """

    follow: bool = False
    poll: Annotated[float, AtLeast(0.01)] = 5.0
    patience: Annotated[float | None, AtLeast(0)] = None
    every: bool = False


def stream(
    recording: Path,
    /,
    *,
    model: Model = None,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    following: FollowOptions = FollowOptions(),
    alarms: AlarmOptions = AlarmOptions(),
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Follows a recording segment by segment and prints alarms as lines of JSON. For research only, not for diagnosis.

    Example: ieeg stream recording.edf --model run/model --follow --out alarms.jsonl

    Args:
        recording: a long recording, or one that is still growing.
        out: file that receives the lines, too (.jsonl).
    """
    records = stream_records(
        recording,
        model=model,
        out=out,
        following=following,
        alarms=alarms,
        montage=montage,
        cleaning=cleaning,
        device=device,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
    )
    for record in records:
        print(json.dumps(record, ensure_ascii=False), flush=True)


def stream_records(
    recording: Path,
    *,
    model: str | None = None,
    out: Path | None = None,
    following: FollowOptions = FollowOptions(),
    alarms: AlarmOptions = AlarmOptions(),
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
    """The records that `stream` prints, for a notebook; ``OUT.position`` records how far the stream got.

    Raises:
        UserError: no model, a recording that does not fit, or an existing file.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import model_identity, refuse_inputs_as_outputs, spelled
    from ieeg.model.folder import choose, load_model
    from ieeg.model.stream import Alarms, follow_signals
    from ieeg.recordings.finding import files_of
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.prepared import Prepared

    use_threads(threads)
    opened = open_recording(recording)
    folder = choose(model)
    loaded = load_model(folder, device=resolve_device(device))
    seconds = loaded.segment_seconds
    threshold = alarms.threshold
    if threshold is None:
        threshold = loaded.threshold
    release = alarms.release
    if release is None:
        release = 0.8 * threshold  # lower than the threshold, so that an alarm does not flicker
    try:
        rules = Alarms(threshold, release, alarms.confirm)
    except ValueError as error:
        raise UserError(str(error)) from None
    prepared = Prepared(opened, loaded.settings.changed_by(montage, cleaning))
    first_look = [prepared]

    def reopen() -> Prepared:
        """Later looks keep the channels, references and filters of the first one."""
        if first_look:
            return first_look.pop()
        return prepared.again(open_recording(recording))

    # What the records depend on. Not the recording's content, which may have grown.
    parts = {
        "recording": str(recording.resolve()),
        "model": model_identity(folder),
        "alarms": rules,
        "every": following.every,
    }
    key = spelled({**parts, "montage": montage, "cleaning": cleaning})
    first, running_since = 0, None
    if out is not None:
        refuse_inputs_as_outputs(files_of(recording), [out, _position_file(out)])
        if out.exists() and resume and not overwrite:
            first, running_since = _resume(out, seconds, key)
        elif out.exists() and not overwrite:
            raise UserError(f"{out} is already there", "--resume continues it, --overwrite begins again")
        else:
            write_text(out, "")
            write_text(_position_file(out), json.dumps({"next": 0, "key": key}))
    records = follow_signals(
        loaded.network,
        reopen,
        seconds=seconds,
        window=loaded.window,
        alarms=rules,
        first=first,
        running_since=running_since,
        every_segment=True,  # even if not printed: each moves the position
        follow=following.follow,
        poll=following.poll,
        patience=following.patience,
    )
    for record in records:
        is_shown = record["type"] != "segment" or following.every
        if out is not None:
            _write_record(out, record, is_shown, key)
        if is_shown:
            yield record


def _write_record(out: Path, record: Mapping[str, Any], is_shown: bool, key: Any) -> None:
    """Appends a record, and after a segment stores how far the stream got: a killed one continues from there."""
    if is_shown:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if record["type"] == "segment":
        position = _position_file(out)
        part = position.with_suffix(".part")
        part.write_text(json.dumps({"next": record["index"] + 1, "key": key}))
        os.replace(part, position)


def _position_file(out: Path) -> Path:
    return out.with_name(out.name + ".position")


def _resume(out: Path, seconds: float, key: Any) -> tuple[int, int | None]:
    """How far a stream got, and the first segment of an alarm that was on; records printed after that are removed.

    Raises:
        UserError: it does not exist, or was made from another recording, model or options.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import differences

    try:
        position = json.loads(_position_file(out).read_text())
        first, before_key = int(position["next"]), position["key"]
        lines = out.read_text(encoding="utf-8").splitlines()
        # a line without its closing brace was cut off by the kill
        records = [json.loads(line) for line in lines if line.endswith("}")]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out} cannot be resumed: its position file is missing", "--overwrite begins again") from None
    changed = differences(before_key, key)
    if changed:
        raise UserError(f"{out} was made with another {', '.join(changed)}", "--overwrite begins again")
    # The position is written after a segment's records: a kill in between leaves records that will come again.
    before = []
    for record in records:
        is_end = record.get("state") == "running at the end"
        # 1e-6: times are rounded in JSON
        if not is_end and _time_of(record, seconds) <= first * seconds + 1e-6:
            before.append(record)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in before]
    write_text(out, "".join(lines))
    alarms = [record for record in before if record["type"] == "alarm"]
    if alarms and alarms[-1]["state"] == "on":
        return first, round(alarms[-1]["onset"] / seconds)
    return first, None


def _time_of(record: Mapping[str, Any], seconds: float) -> float:
    """The time at which a record was printed, in seconds of the recording."""
    if record["type"] == "segment":
        return record["onset"] + seconds
    return record.get("said_at", 0.0)
