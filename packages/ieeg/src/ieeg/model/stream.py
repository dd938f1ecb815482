"""A long or growing recording followed segment by segment: alarms as plain records, each segment encoded once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ieeg.model.inference import Signals, check, log_odds
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.windows import SlidingWindow


@dataclass(frozen=True)
class Alarms:
    """When an alarm begins and ends.

    Attributes:
        threshold: it begins with a segment whose probability reaches this.
        release: it ends with a segment below this.
        confirm: how many segments in a row must reach the threshold.
    """

    threshold: float = 0.5
    release: float = 0.4
    confirm: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1 or self.confirm < 1:
            raise ValueError(
                f"0 < release ≤ threshold < 1 and confirm at least 1; got {self.release}, {self.threshold} and {self.confirm}"
            )


@dataclass
class AlarmState:
    """What is remembered from segment to segment; `step` gives the records of one.

    Attributes:
        rules, seconds: when alarms begin and end; length of a segment.
        running: whether an alarm is on, which began with segment `began`.
        above: how many segments in a row have reached the threshold.
    """

    rules: Alarms
    seconds: float
    running: bool = False
    above: int = 0
    began: int = 0

    def step(self, index: int, probability: float, channels: list[str]) -> Iterator[dict[str, Any]]:
        """The alarm records (none, one) that segment `index` causes."""
        self.above = self.above + 1 if probability >= self.rules.threshold else 0
        if not self.running and self.above >= self.rules.confirm:
            self.running, self.began = True, index - self.above + 1
            yield {
                "type": "alarm",
                "state": "on",
                "onset": self.began * self.seconds,
                "said_at": (index + 1) * self.seconds,
                "probability": round(probability, 4),
                "channels": channels,
            }
        elif self.running and probability < self.rules.release:
            self.running = False
            yield {
                "type": "alarm",
                "state": "off",
                "onset": self.began * self.seconds,
                "offset": index * self.seconds,
                "said_at": (index + 1) * self.seconds,
                "probability": round(probability, 4),
            }


def follow_signals(
    model: MVPFormer,
    reopen: Callable[[], Signals],
    *,
    seconds: float,
    window: int = 25,
    alarms: Alarms | None = None,
    first: int = 0,
    running_since: int | None = None,
    every_segment: bool = False,
    follow: bool = False,
    poll: float = 5.0,
    hold_back: int = 1,
    patience: float | None = None,
    top: int = 3,
) -> Iterator[dict[str, Any]]:
    """Records of a recording in the order of its segments.

    Each is a dict that JSON can hold: ``{"type": "segment", "index", "onset", "probability"}`` if `every_segment`, and ``{"type":
    "alarm", "state": "on" | "off", "onset", …}`` with the channels that say most. Times are seconds from the recording's first sample.

    Args:
        reopen: opens the prepared recording; called again to see whether it has grown.
        seconds: length of a segment.
        first: begin here (a resumed stream); the segments before are context and are not reported again.
        running_since: the segment at which an alarm began that was running when the stream was interrupted.
        follow: wait for more at the end, instead of ending.
        poll: seconds between two looks.
        hold_back: segments at the growing end that are left for the next look, because filters still change them.
        patience: with `follow`: seconds without anything new after which to end; None: never.
        top: channels named in an alarm.

    Raises:
        UserError: a model or recording that does not fit.
    """
    signals = reopen()
    check(model, signals)
    state = AlarmState(alarms or Alarms(), seconds)
    if running_since is not None:
        state.running, state.began = True, running_since
    sliding = SlidingWindow(model, window)
    # A resumed stream reads as far back as the first window, and the count of confirming segments before it, need.
    done = max(0, first - window + 2 - state.rules.confirm)
    last_growth = time.monotonic()
    while True:
        end = signals.segment_count - (hold_back if follow else 0)
        while done < end:
            stop = min(done + 16, end)
            segments = torch.from_numpy(signals.segments(done, stop))
            evidence = log_odds(sliding.push(segments)).float().cpu()
            for index, row in enumerate(evidence, done):
                probability = float(row.mean().sigmoid())
                if index < first:
                    state.above = state.above + 1 if probability >= state.rules.threshold else 0
                    continue
                names = [signals.names[i] for i in row.argsort(descending=True)[:top]]
                yield from state.step(index, probability, names)
                if every_segment:  # last: a reader of it knows that the segment's alarms came before
                    yield {
                        "type": "segment",
                        "index": index,
                        "onset": index * seconds,
                        "probability": round(probability, 6),
                    }
            done, last_growth = stop, time.monotonic()
        out_of_patience = patience is not None and time.monotonic() - last_growth > patience
        if not follow or out_of_patience:
            if follow and hold_back:  # nothing more will come: what was held back is as final as it gets
                follow, hold_back = False, 0
                continue
            break
        time.sleep(poll)
        signals = reopen()
    if state.running:
        yield {
            "type": "alarm",
            "state": "running at the end",
            "onset": state.began * seconds,
            "offset": done * seconds,
        }
