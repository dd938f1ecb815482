"""From a prepared recording to the model's answers, segment by segment: probability of a seizure, evidence of each channel, attention."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from core_attention.capture.capture import capture
from core_runtime.errors import UserError
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.windows import SlidingWindow

BLOCK = 64  # segments read and encoded together


class Signals(Protocol):
    """A prepared recording, as far as models need it: `ieeg.recordings.prepared.Prepared`, or segments in memory."""

    @property
    def names(self) -> list[str]:
        """Names of its channels."""
        ...

    @property
    def segment_count(self) -> int:
        """Number of whole segments."""
        ...

    def segments(self, first: int, last: int) -> NDArray[np.float32]:
        """Segments `first` to `last` (excluded), microvolts, (segments, channels, samples)."""
        ...


class Answer(NamedTuple):
    """The model's answer for one segment.

    Attributes:
        index: number of the segment, from 0.
        probability: of a seizure in it, given the window that ends with it.
        channels: each channel's evidence, (channels,), in log-odds; their mean is the log-odds of `probability`, exactly.
    """

    index: int
    probability: float
    channels: NDArray[np.float32] | None


def probabilities(
    model: MVPFormer,
    signals: Signals,
    *,
    window: int = 25,
    first: int = 0,
    last: int | None = None,
    channels: bool = True,
    block: int = BLOCK,
) -> Iterator[Answer]:
    """The probability of a seizure in every segment, in order; memory does not grow with the recording.

    Args:
        model: with a seizure head, in evaluation mode, on its device.
        window: segments T that each answer is based on, the segment itself last. Before the first segment, that one is repeated.
        first, last: segments to answer for; earlier ones are read as context.
        channels: also give each channel's evidence.
        block: segments read at once.

    Raises:
        UserError: a generative model, too many channels, or segments of another length.
    """
    check(model, signals)
    end = signals.segment_count
    if last is not None:
        end = min(last, end)
    sliding = SlidingWindow(model, window)
    context = max(0, first - window + 1)
    starts = list(range(context, end, block))

    def read(start: int) -> torch.Tensor:
        return torch.from_numpy(signals.segments(start, min(start + block, end)))

    # One block is read and filtered while the model works on the one before.
    with ThreadPoolExecutor(1) as reader:
        next_block = None
        if starts:
            next_block = reader.submit(read, starts[0])
        for start, next_start in zip(starts, [*starts[1:], None], strict=True):
            assert next_block is not None
            segments = next_block.result()
            if next_start is not None:
                next_block = reader.submit(read, next_start)
            evidence = log_odds(sliding.push(segments)).float().cpu()
            for i, row in enumerate(evidence):
                if start + i < first:  # context
                    continue
                own = row.numpy() if channels else None
                # the mean of the channels' log-odds, not of their probabilities: it is what the model computes
                yield Answer(start + i, float(row.mean().sigmoid()), own)


def log_odds(contributions: torch.Tensor) -> torch.Tensor:
    """The log-odds of class 1 against class 0, (…, channels), from contributions (…, channels, classes): of two classes, a difference."""
    return contributions[..., 1] - contributions[..., 0]


def check(model: MVPFormer, signals: Signals) -> None:
    """Refuses a model that cannot detect seizures in a recording.

    Raises:
        UserError: it cannot; the message says why.
    """
    config = model.config
    if config.classes != 2:
        raise UserError(
            "this model has no seizure head",
            "'ieeg train --task detect --model THIS' fine-tunes one; 'ieeg forecast' takes generative models",
        )
    fits(model, signals)


def fits(model: MVPFormer, signals: Signals) -> None:
    """Refuses a recording that does not fit the model's tables and segments.

    Raises:
        UserError: it does not.
    """
    if not 1 <= len(signals.names) <= model.config.channels:
        advice = "choose fewer channels"
        if not signals.names:
            advice = "'ieeg inspect' says why all were left out"
        raise UserError(
            f"{len(signals.names)} channels are left, this model takes 1 to {model.config.channels}", advice
        )
    if signals.segment_count < 1:
        raise UserError("the recording is shorter than one segment of the model")
    samples = signals.segments(0, 1).shape[-1]
    if samples != model.config.segment:
        raise UserError(f"segments have {samples} samples, this model takes {model.config.segment}")


@dataclass(frozen=True)
class AttentionMap:
    """The attention of the last segment of a window: mean over layers, heads and its channels.

    Attributes:
        grid: (window, channels), sums to 1: attention to each segment of each channel.
        pairs: (channels, channels): from channel (row) to channel (column), all segments together; rows sum to 1.
    """

    grid: NDArray[np.float32]
    pairs: NDArray[np.float32]

    @property
    def time(self) -> NDArray[np.float32]:
        """Attention to each segment of the window, oldest first, (window,)."""
        return self.grid.sum(1)

    @property
    def channel(self) -> NDArray[np.float32]:
        """Attention to each channel, (channels,)."""
        return self.grid.sum(0)


def attention(model: MVPFormer, signals: Signals, index: int, *, window: int = 25) -> AttentionMap:
    """The attention of segment `index`, in the window that `probabilities` uses for it.

    Raises:
        UserError: the recording does not fit the model.
    """
    fits(model, signals)
    begin = max(0, index - window + 1)
    segments = torch.from_numpy(signals.segments(begin, index + 1))
    weight = model.head.weight
    with torch.inference_mode():
        tokens = model.encode(segments.to(weight.device, weight.dtype))
        missing = window - len(tokens)  # before the recording's first segment, which is repeated
        tokens = torch.cat([tokens[:1].expand(missing, -1, -1), tokens])[None]
        channels = tokens.shape[2]
        # The last segment's queries are the last rows: one for each channel.
        with capture(model, rows=slice(-channels, None), kinds="weights", limit=2**31) as maps:
            model.decoder(tokens, last=True)
    total = sum(maps[layer][0].mean(0) for layer in maps)
    mean = (total / len(maps)).unflatten(-1, (window, channels)).float().cpu()  # pyright: ignore[reportAttributeAccessIssue]
    return AttentionMap(mean.mean(0).numpy(), mean.sum(1).numpy())
