"""Any detector of torchvision or transformers behind an enhancer: what it sees changes, its boxes do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class EnhancedDetector(nn.Module):
    """A detector whose network sees enhanced pictures.

    The detector is called exactly as without an enhancer, and returns what it always returns. Of torchvision's detectors, the enhancer sees the batch that
    the backbone would see: normalised, resized and zero-padded, as in the published detector; the size does not change, so that boxes and targets stay as they
    are. Of transformers' detectors it sees ``pixel_values``, which the image processor has prepared in the same way.

    In a state dict the enhancer's keys begin with ``feat_enhancer.``, as published, and the detector's with ``detector.``.

    Args:
        enhancer: a module from pictures to pictures of the same shape, such as `FeatEnHancer`; None: the bare detector, for comparison.
        detector: of torchvision (with ``transform`` and ``backbone``) or transformers (called with ``pixel_values``).
        clear_padding: set the padding to 0 again after the enhancement; as published, it stays as the enhancer leaves it.

    Raises:
        TypeError: a detector of neither kind.
    """

    def __init__(self, enhancer: nn.Module | None, detector: nn.Module, *, clear_padding: bool = False) -> None:
        super().__init__()
        self.of_torchvision = hasattr(detector, "transform") and hasattr(detector, "backbone")
        if not self.of_torchvision and getattr(detector, "main_input_name", None) != "pixel_values":
            raise TypeError(
                f"{type(detector).__name__} is no detector of torchvision (with transform and backbone) or transformers "
                "(called with pixel_values)"
            )
        self.feat_enhancer, self.detector, self.clear_padding = enhancer, detector, clear_padding

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the detector returns for these arguments."""
        if self.feat_enhancer is None:
            return self.detector(*inputs, **options)
        if self.of_torchvision:
            with self._enhancing():
                return self.detector(*inputs, **options)
        if inputs:
            options["pixel_values"], inputs = inputs[0], inputs[1:]
        pixels = options["pixel_values"]
        enhanced = self.feat_enhancer(pixels)
        mask = options.get("pixel_mask")
        if self.clear_padding and mask is not None:
            enhanced = enhanced * mask[:, None].to(enhanced.dtype)
        return self.detector(*inputs, **options | {"pixel_values": enhanced})

    @contextmanager
    def _enhancing(self) -> Iterator[None]:
        """While it lasts, the backbone of a torchvision detector gets enhanced batches; the detector itself is not changed."""
        sizes: list[tuple[int, int]] = []

        def remember_sizes(module: nn.Module, inputs: Any, output: Any) -> None:
            sizes[:] = output[0].image_sizes

        def enhance(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            assert self.feat_enhancer is not None
            enhanced = self.feat_enhancer(inputs[0])
            if self.clear_padding:
                enhanced = enhanced * _inside(enhanced, sizes)
            return (enhanced, *inputs[1:])

        transform, backbone = self.detector.get_submodule("transform"), self.detector.get_submodule("backbone")
        handles = [transform.register_forward_hook(remember_sizes), backbone.register_forward_pre_hook(enhance)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _inside(batch: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """1 in the pictures of a batch, 0 in the padding right of and below them, (batch, 1, height, width)."""
    mask = batch.new_zeros(len(batch), 1, *batch.shape[2:])
    for row, (height, width) in zip(mask, sizes, strict=True):
        row[:, :height, :width] = 1
    return mask
