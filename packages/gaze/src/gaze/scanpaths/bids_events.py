"""Events of eye-tracking BIDS: the tracker's fixations in ``_physioevents.tsv.gz``, the trials in ``_events.tsv``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.fields import read_field
from gaze.scanpaths.assembly import MS_PER, Account
from gaze.scanpaths.bids_files import BidsRecording, column_names, has_content, read_cells, to_numbers, unit_of
from gaze.scanpaths.bids_samples import mean_positions
from gaze.scanpaths.samples import Samples

_ROUNDING = 1e-3  # ms: seconds with six digits and milliseconds meet
_STIMULUS = ("stim_file", "stimulus", "image", "image_name", "stim")
_TRIAL = ("trial_number", "trial", "trial_id")


def read_fixations(
    recording: BidsRecording, time_unit: str, samples: Samples | None, account: Account
) -> NDArray[np.float64] | None:
    """(fixations, 4): onset and duration in ms, x and y; None: the tracker wrote none."""
    path = recording.events
    if path is None or not has_content(path):
        return None
    sidecar = recording.event_sidecar
    columns = column_names(sidecar, path)
    for name in ("onset", "duration", "trial_type"):
        if name not in columns:
            raise UserError(f"{path}: its JSON names no column {name}", f"its columns are {', '.join(columns)}")
    positions = [name for name in ("x_coordinate", "y_coordinate") if name in columns]
    rows = read_cells(path, columns, ["trial_type", "onset", "duration", *positions], account)
    fixations = [row[1:] for row in rows if row[0].lower() == "fixation"]
    if not fixations:
        return None
    values = to_numbers(fixations, 2 + len(positions))
    source = sidecar.get("OnsetSource", "timestamp")
    onset_unit = unit_of(sidecar, "onset", time_unit if source == "timestamp" else "s")
    duration_unit = unit_of(sidecar, "duration", "s")
    onset = values[:, 0] * MS_PER[onset_unit]
    duration = values[:, 1] * MS_PER[duration_unit]
    if unit_of(sidecar, "duration", "") == "" and np.nanmedian(duration) > 20_000:
        # BIDS wants seconds; converters that copy the tracker's milliseconds are met.
        duration = values[:, 1]
        account.note(f"{path.name}: durations are taken as ms: in s, fixations would last for minutes")
    median = 200.0
    if np.isfinite(duration).any():
        median = float(np.nanmedian(duration))
    if not 5 <= median <= 20_000:
        raise UserError(
            f"{path}: if durations are in {duration_unit}, as its JSON says, half of the fixations last {'less' if median < 5 else 'more'} "
            f"than {median:.3g} ms",
            "mend Units of duration in the JSON file",
        )
    if len(positions) == 2:
        return np.column_stack([onset, duration, values[:, 2:]])
    if samples is None:
        raise UserError(f"{path} has fixations without positions, and there are no samples to take them from")
    account.note("positions of fixations are the means of their samples")
    return np.column_stack([onset, duration, mean_positions(samples, onset, duration)])


def cut_into_trials(
    recording: BidsRecording, rows: NDArray[np.float64], first: float, account: Account
) -> list[tuple[str, str, float, NDArray[np.float64], dict[str, Any]]]:
    """(name, stimulus, begin in ms, fixations, other columns) of each trial of the events.tsv; the whole run where none fits.

    `first` is when the run begins on the tracker's clock, in ms.
    """
    whole = [(recording.run, "", first, rows, {})]
    if recording.trials is None:
        return whole
    from core_runtime.tables import read_table

    table = read_table(recording.trials)
    onset, duration = table.column("onset"), table.column("duration")
    assert onset is not None
    assert duration is not None
    stimulus, trial = (table.column(*names, required=False) for names in (_STIMULUS, _TRIAL))
    # On the tracker's clock where the events say so, else from the first sample.
    on_clock = recording.stimulus.get("OnsetSource") == "timestamp"
    start = read_field(recording.sidecar, "StartTime", float, where=recording.path, default=0.0)
    shift = 0.0 if on_clock else first - start * 1000
    cut, used, twice = [], np.zeros(len(rows), bool), 0
    for number, row in enumerate(table, 1):
        begin, length = table.number(row, onset), table.number(row, duration)
        if begin is None or length is None:
            continue
        begin, end = begin * 1000 + shift, (begin + length) * 1000 + shift
        inside = (rows[:, 0] >= begin - _ROUNDING) & (rows[:, 0] < end - _ROUNDING)
        twice += int((used & inside).sum())
        used |= inside
        known = {
            name: value for name, value in row.cells.items() if name not in (onset, duration) and value is not None
        }
        cut.append((row.get(trial) or str(number), row.get(stimulus) or "", begin, rows[inside], known))
    if not used.any():
        account.note(f"{recording.path.name}: no fixation lies in a trial of {recording.trials.name}: it is kept whole")
        return whole
    if twice:
        account.note(f"{recording.trials.name}: trials overlap in time: {twice} fixations count in two of them")
    account.leave_out("fixations that begin outside of every trial", int((~used).sum()))
    return cut
