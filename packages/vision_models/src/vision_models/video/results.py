"""What VMoBA kept, in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def layer_lines(layers: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What each layer's blocks keep, one per line."""
    for row in layers:
        yield (
            f"  layer {row['layer']:2}: blocks of {row['chunk']}, {row['blocks']} of them; density {row['density']:.3f}, "
            f"recall {row['recall']:.3f}, relative error {row['error']:.3f}"
        )
