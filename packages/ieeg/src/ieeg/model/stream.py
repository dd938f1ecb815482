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
        release: it ends with a segment whose probability is below this.
        confirm: number of consecutive segments that must reach the threshold.
    """

    threshold: float = 0.5
    release: float = 0.4
    confirm: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1 or self.confirm < 1:
            raise ValueError(
                f"alarms need 0 < release ≤ threshold < 1 and confirm at least 1; got {self.release}, {self.threshold} and {self.confirm}"
            )


@dataclass
class AlarmState:
    """The state between segments; `step` gives the records of one segment.

    Attributes:
        rules, seconds: when alarms begin and end; length of a segment.
        running: whether an alarm is on, which began with segment `began`.
        above: number of consecutive segments, up to now, that have reached the threshold.
    """

    rules: Alarms
    seconds: float
    running: bool = False
    above: int = 0
    began: int = 0

    def count(self, probability: float) -> None:
        """Updates the number of consecutive segments above the threshold."""
        if probability >= self.rules.threshold:
            self.above += 1
        else:
            self.above = 0

    def step(self, index: int, probability: float, channels: list[str]) -> Iterator[dict[str, Any]]:
        """The alarm records (none or one) that segment `index` causes."""
        self.count(probability)
        if not self.running and self.above >= self.rules.confirm:
            # it began with the first of the confirming segments, though it is reported only now
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
    "alarm", "state": "on" | "off", "onset", …}`` with the channels of the strongest evidence. Times are seconds from the recording's first sample.

    Args:
        reopen: opens the prepared recording; called again to see whether it has grown.
        seconds: length of a segment.
        first: begin here (a resumed stream); the segments before are context and are not reported again.
        running_since: the segment at which an alarm began that was on when the stream was interrupted.
        follow: wait for more data at the end, instead of ending.
        poll: seconds between two looks.
        hold_back: segments at the growing end that are left for the next look, because filters still change them.
        patience: with `follow`: end after this many seconds without new data; None: never.
        top: number of channels named in an alarm.

    Raises:
        UserError: a model or recording that does not fit.
    """
    signals = reopen()
    check(model, signals)
    state = AlarmState(alarms or Alarms(), seconds)
    if running_since is not None:
        state.running, state.began = True, running_since
    sliding = SlidingWindow(model, window)
    # A resumed stream reads as far back as its first window and the count of confirming segments before it need.
    done = max(0, first - window + 2 - state.rules.confirm)
    last_growth = time.monotonic()
    while True:
        end = signals.segment_count
        if follow:
            end -= hold_back
        while done < end:
            stop = min(done + 16, end)
            segments = torch.from_numpy(signals.segments(done, stop))
            evidence = log_odds(sliding.push(segments)).float().cpu()
            for index, row in enumerate(evidence, done):
                probability = float(row.mean().sigmoid())
                if index < first:  # context: only the count goes on
                    state.count(probability)
                    continue
                names = [signals.names[i] for i in row.argsort(descending=True)[:top]]
                yield from state.step(index, probability, names)
                if every_segment:  # last, so that a reader of it knows that the segment's alarms came before
                    yield {
                        "type": "segment",
                        "index": index,
                        "onset": index * seconds,
                        "probability": round(probability, 6),
                    }
            done, last_growth = stop, time.monotonic()
        out_of_patience = patience is not None and time.monotonic() - last_growth > patience
        if not follow or out_of_patience:
            if follow and hold_back:  # no more data will come: the segments held back are final
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
