"""A window that moves over the segments of a recording: every segment is encoded once, in however many windows it is.

The decoder runs again on each window; none of its results can be reused exactly, since with the published indices a result belongs to its window.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ieeg.model.mvpformer import MVPFormer

TOKENS = 2**13  # in the windows that are decoded together


class SlidingWindow:
    """The last `length` embeddings of a recording; windows end at every new segment.

    Before the recording's first segment the window is filled with that segment's embedding, so that the first windows have the length
    that the model was trained with.

    Args:
        model: in evaluation mode; its device and dtype are the window's.
        length: segments T of a window.

    Raises:
        ValueError: a window longer than the model's table of positions.
    """

    def __init__(self, model: MVPFormer, length: int) -> None:
        if not 1 <= length <= model.config.positions:
            raise ValueError(f"this model takes windows of 1 to {model.config.positions} segments; got {length}")
        self.model, self.length = model, length
        self.kept: Tensor | None = None  # (at most length − 1, channels, width)
        self.seen = 0

    def reset(self) -> None:
        """Forgets the recording."""
        self.kept, self.seen = None, 0

    def push(
        self,
        segments: Float[Tensor, "new channels samples"],
        *,
        of: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "new ..."]:
        """One result for each new segment, of the window that ends with it.

        Args:
            segments: the recording's next ones, microvolts.
            of: a function of windows of embeddings (windows, length, channels, width); default: `MVPFormer.contributions`,
                (new, channels, classes).

        Raises:
            ValueError: another number of channels than before.
        """
        weight = self.model.head.weight
        compute = of or self.model.contributions
        with torch.inference_mode():
            new = self.model.encode(segments.to(weight.device, weight.dtype))
            if self.kept is None:
                self.kept = new[:1].expand(self.length - 1, -1, -1)
            if self.kept.shape[1:] != new.shape[1:]:
                raise ValueError(f"the window holds {self.kept.shape[1]} channels, the new segments {new.shape[1]}")
            tokens = torch.cat([self.kept, new])
            self.kept = tokens[len(new) :]
            self.seen += len(new)
            windows = tokens.unfold(0, self.length, 1).permute(0, 3, 1, 2)  # a view: (new, length, channels, width)
            windows_at_once = max(1, TOKENS // (self.length * new.shape[1]))
            return torch.cat([compute(part) for part in windows.split(windows_at_once)])
