"""Fixations out of raw samples: velocity (I-VT) or dispersion (I-DT) in degrees, by pymovements."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.assembly import Account, Trial, Units, assemble
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.samples import FASTEST, SLOWEST, Samples
from gaze.scanpaths.scanpath import Display, Eye, Reading

_SHORTEST = 50.0  # ms, of a detected fixation where --min-duration does not say more


def detect_reading(
    samples: Samples,
    where: str,
    kind: str,
    options: ReadOptions,
    account: Account,
    *,
    subject: str,
    display: Display,
    facts: Mapping[str, Any] | None = None,
) -> Reading:
    """A reading whose fixations are detected: one scanpath for each block and eye.

    Raises:
        UserError: the geometry is not known, no eye was seen, or nothing is detected.
    """
    from pathlib import Path

    trials = list(detect(samples, where, options, account, subject=subject, display=display))
    for note in samples.notes:
        account.note(note)
    units = Units("px", "ms", "ms", "top-left")
    return assemble(trials, f"{kind}, raw samples", Path(where), options, account, units=units, facts=facts)


def detect(
    samples: Samples,
    where: str,
    options: ReadOptions,
    account: Account,
    *,
    subject: str,
    display: Display,
) -> Iterator[Trial]:
    """Fixations of each eye and block, as trials of the file.

    Blocks are split where samples are missing for longer than two intervals: no fixation spans such a gap.
    """
    method = "ivt"
    if options.detect == "idt":
        method = "idt"
    need_geometry(where, display)
    rate = samples.rate()
    if not SLOWEST <= rate <= FASTEST:
        raise UserError(
            f"{where}: by their times there are {rate:.3g} samples per second: no eye tracker has that rate",
            "mend the unit of the times",
        )
    shortest = max(options.min_duration, _SHORTEST)
    least = max(2, round(shortest * rate / 1000))
    if method == "ivt":
        detection = f"detected: I-VT, {options.velocity_threshold:g}°/s, ≥ {shortest:g} ms"
    else:
        detection = f"detected: I-DT, {options.dispersion_threshold:g}°, ≥ {shortest:g} ms"
    account.note(
        f"the fixations are {detection} (pymovements) at {rate:g} Hz and {display.pixels_per_degree():.1f} pixels per degree"
    )
    _look_at_positions(samples, where, display)
    eyes_seen = samples.eyes()
    if not eyes_seen:
        raise UserError(f"{where}: no eye was seen in any sample")
    eyes: list[Eye] = [eye for eye in eyes_seen if options.eye == "both" or eye in (options.eye, "both", "unknown")]
    if not eyes:
        raise UserError(f"{where}: the {options.eye} eye was not recorded")
    for eye in eyes:
        for block in np.unique(samples.block):
            inside = samples.block == block
            time, points = samples.time[inside], samples.points[eye][inside]
            rows = _fixations(time, points, display, rate, method, options, least)
            onset, duration, x, y = rows.T
            names = samples.names.get(int(block), {})
            yield Trial(
                x,
                y,
                duration,
                onset - time[0],
                stimulus=names.get("stimulus", ""),
                subject=names.get("subject", subject),
                trial=names.get("trial", f"block {block + 1}"),
                eye=eye,
                display=display,
                provenance=detection,
                details={"block": int(block), "begins at (ms)": float(time[0])},
            )


def _look_at_positions(samples: Samples, where: str, display: Display) -> None:
    """Raises where the samples are not pixels of this screen."""
    width, height = display.size or (0, 0)
    points = np.concatenate(list(samples.points.values()))
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return
    inside = ((points >= 0) & (points < (width, height))).all(1)
    if inside.mean() < 0.5:
        raise UserError(
            f"{where}: {100 - 100 * inside.mean():.0f} % of the samples lie beside the screen of {width} × {height} pixels",
            "are --screen and --units right?",
        )
    if np.abs(points).max() <= 2:
        raise UserError(
            f"{where}: all samples lie between {points.min():.3g} and {points.max():.3g}: they are not pixels",
            "give --units normalised",
        )


def need_geometry(where: str, display: Display) -> None:
    """Raises `UserError` where the geometry that degrees need is not known."""
    try:
        display.pixels_per_degree()
        if display.height is None or display.height_mm is None:
            raise UserError("")
    except UserError:
        raise UserError(
            f"{where}: detecting fixations in raw samples, in degrees, needs the geometry",
            "give --screen WIDTH,HEIGHT (pixels), --screen-mm WIDTH,HEIGHT and --distance-mm",
        ) from None


def _fixations(
    time: NDArray[np.float64],
    points: NDArray[np.float64],
    display: Display,
    rate: float,
    method: str,
    options: ReadOptions,
    least: int,
) -> NDArray[np.float64]:
    """(fixations, 4): onset and duration in ms, mean x and y in pixels."""
    order = np.argsort(time, kind="stable")
    time, points = time[order], points[order]
    fixations: list[tuple[float, float, float, float]] = []
    interval = 1000 / rate
    borders = np.flatnonzero(np.diff(time) > 2 * interval) + 1
    for piece in np.split(np.arange(len(time)), borders):
        if len(piece) < max(least, 6):  # shorter than the filter of the velocity
            continue
        positions, velocities = _degrees(points[piece], display, rate, with_velocity=method == "ivt")
        for first, last in _spans(positions, velocities, options, least):
            inside = points[piece[first : last + 1]]
            visible = np.isfinite(inside).all(1)
            if visible.any():
                x, y = inside[visible].mean(0).tolist()
                start, end = float(time[piece[first]]), float(time[piece[last]])
                fixations.append((start, end - start + interval, x, y))
    return np.array(fixations, np.float64).reshape(-1, 4)


def _degrees(
    points: NDArray[np.float64], display: Display, rate: float, *, with_velocity: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions in degrees from the middle of the screen and, for I-VT, velocities in degrees per second."""
    import polars as pl
    import pymovements as pm

    width_mm, height_mm, distance_mm = display.width_mm or 0.0, display.height_mm or 0.0, display.distance_mm or 0.0
    experiment = pm.gaze.Experiment(
        screen_width_px=display.width,
        screen_height_px=display.height,
        screen_width_cm=width_mm / 10,
        screen_height_cm=height_mm / 10,
        distance_cm=distance_mm / 10,
        origin="upper left",
        sampling_rate=rate,
    )
    frame = pl.DataFrame({"x": points[:, 0], "y": points[:, 1]}).fill_nan(None)
    gaze = pm.gaze.Gaze(frame, experiment=experiment, pixel_columns=["x", "y"])
    gaze.pix2deg()
    if with_velocity:
        gaze.pos2vel("fivepoint")
    positions = _columns(gaze.samples["position"])
    return positions, _columns(gaze.samples["velocity"]) if with_velocity else None


def _columns(series: Any) -> NDArray[np.float64]:
    """A column of pairs as (samples, 2), null as NaN."""
    return np.column_stack([series.list.get(axis).to_numpy().astype(np.float64) for axis in (0, 1)])


def _spans(
    positions: NDArray[np.float64], velocities: NDArray[np.float64] | None, options: ReadOptions, least: int
) -> list[tuple[int, int]]:
    """First and last sample of each fixation."""
    from pymovements.events import idt, ivt

    if velocities is not None:
        events = ivt(velocities, minimum_duration=least - 1, velocity_threshold=options.velocity_threshold)
    else:
        events = idt(positions, minimum_duration=least, dispersion_threshold=options.dispersion_threshold)
    return [(int(a), int(b)) for a, b in zip(events.frame["onset"], events.frame["offset"], strict=True)]
