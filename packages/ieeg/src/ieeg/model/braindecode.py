"""MVPFormer under braindecode's conventions, for its training and evaluation tools (skorch, ``EEGClassifier``).

The network is ours (`ieeg.model.mvpformer`); braindecode itself is not needed to use it.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig


class BraindecodeMVPFormer(nn.Module):
    """Takes (batch, n_chans, n_times) in microvolts, gives (batch, n_outputs) logits.

    Args:
        n_chans, n_outputs: channels and classes.
        n_times: samples of an input, cut into segments; zeros are added in front if it is not a multiple of `segment_len`.
        sfreq: Hz; only stored, for tools that read it.
        chs_info: channel descriptions of MNE, from which `n_chans` is taken if it is not given.
        input_window_seconds: instead of `n_times`, with `sfreq`.
        segment_len: samples of a segment.
        network: a model of ours to wrap (pre-trained), instead of a fresh one; `options` must then be empty.
        options: further fields of `MVPFormerConfig` (width, layers, heads …).

    Raises:
        ValueError: missing or contradictory sizes.
    """

    def __init__(
        self,
        n_chans: int | None = None,
        n_outputs: int | None = None,
        n_times: int | None = None,
        sfreq: float | None = None,
        chs_info: Sequence[Any] | None = None,
        input_window_seconds: float | None = None,
        *,
        segment_len: int = 2560,
        network: MVPFormer | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if n_times is None and input_window_seconds is not None and sfreq is not None:
            n_times = round(input_window_seconds * sfreq)
        if n_chans is None and chs_info is not None:
            n_chans = len(chs_info)
        if n_chans is None or n_outputs is None or n_times is None:
            raise ValueError(
                "n_chans (or chs_info), n_outputs and n_times (or input_window_seconds and sfreq) are needed"
            )
        if network is not None and options:
            raise ValueError(f"a given network has its own sizes; got {', '.join(options)}")
        if network is not None:
            segment_len = network.config.segment
        segments = -(-n_times // segment_len)  # rounded up
        if network is None:
            network = MVPFormer(MVPFormerConfig(segment=segment_len, classes=n_outputs, **options))
        config = network.config
        if n_chans > config.channels or segments > config.positions:
            raise ValueError(
                f"the model holds {config.channels} channels and {config.positions} segments at most; "
                f"got {n_chans} and {segments}"
            )
        self.n_chans, self.n_outputs, self.n_times = n_chans, n_outputs, n_times
        self.sfreq, self.chs_info = sfreq, chs_info
        self.segments, self.missing = segments, segments * segment_len - n_times
        self.network = network
        if config.classes != n_outputs:
            self.reset_head(n_outputs)

    @property
    def input_window_seconds(self) -> float | None:
        """Length of an input."""
        if not self.sfreq:
            return None
        return self.n_times / self.sfreq

    def reset_head(self, n_outputs: int) -> None:
        """A fresh head for another number of classes."""
        import dataclasses

        old = self.network
        self.network.config = dataclasses.replace(old.config, classes=n_outputs)
        weight = old.head.weight
        self.network.head = nn.Linear(old.config.width, n_outputs, bias=False).to(weight.device, weight.dtype)
        nn.init.normal_(self.network.head.weight, std=0.02)
        self.n_outputs = n_outputs

    def forward(self, x: Float[Tensor, "batch channels times"], return_features: bool = False) -> Any:
        """Logits, or with `return_features` ``{"features": (batch, width), "cls_token": None}``.

        Raises:
            ValueError: other channels or samples than stated at construction.
        """
        if x.ndim != 3 or x.shape[1:] != (self.n_chans, self.n_times):
            raise ValueError(f"x is (batch, {self.n_chans}, {self.n_times}); got {tuple(x.shape)}")
        if self.missing:  # in front: the last segment, which is classified, must be a real one
            x = nn.functional.pad(x, (self.missing, 0))
        tokens = self.network.encode(x.unflatten(-1, (self.segments, -1)).transpose(1, 2))
        if not return_features:
            return self.network.classify(tokens)
        features = self.network.decoder(tokens, last=True)[:, 0].mean(1)
        return {"features": features, "cls_token": None}
