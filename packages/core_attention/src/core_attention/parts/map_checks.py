"""What every attention over feature maps asks of its input and its sizes, with errors that quote both shapes."""

from __future__ import annotations

from torch import Tensor


def feature_map(x: Tensor, channels: int | None, what: str) -> None:
    """Checks a feature map (batch, channels, height, width); an empty batch is fine, an empty map is not.

    Raises:
        ValueError: another rank or channel count, no pixel, or a dtype that is not floating point; names `what` and both shapes.
    """
    width = "channels" if channels is None else channels
    expected = f"(batch, {width}, height, width)"
    if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
        raise ValueError(f"{what} needs a feature map {expected}, got {tuple(x.shape)}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{what} needs at least one channel and one pixel {expected}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{what} needs a float feature map {expected}, got {tuple(x.shape)} of {x.dtype}")


def positive(what: str, **sizes: int) -> None:
    """Checks constructor sizes.

    Raises:
        ValueError: a size below 1; names it.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{what} needs {name} of at least 1, got {size}")


def divides(what: str, **pair: int) -> None:
    """Checks that the second of two named sizes divides the first.

    Raises:
        ValueError: it does not; names both.
    """
    (name, whole), (part_name, part) = pair.items()
    positive(what, **pair)
    if whole % part:
        raise ValueError(f"{what} needs {name} that {part_name} divides, got {name} {whole} and {part_name} {part}")


def odd(what: str, **sizes: int) -> None:
    """Checks kernel sizes, which must be odd for "same" padding.

    Raises:
        ValueError: an even size or one below 1; names it.
    """
    positive(what, **sizes)
    for name, size in sizes.items():
        if size % 2 == 0:
            raise ValueError(f"{what} needs an odd {name} (the map keeps its size), got {size}")
