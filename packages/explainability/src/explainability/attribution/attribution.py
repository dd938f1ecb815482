"""What every explainer returns: a map, which answer it explains, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Scaling = Literal["minmax", "absmax", "percentile", "none"]


@dataclass(frozen=True)
class Attribution:
    """An explanation of a batch.

    Attributes:
        values: at the method's own resolution: (batch, rows, columns) of a map, (batch, channels, height, width) of pixels.
        input_shape: of what was explained.
        target: the class of each sample.
        method: name of the method.
        meta: further facts: the layer, the deviation from completeness.
    """

    values: Tensor
    input_shape: tuple[int, ...]
    target: Tensor
    method: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_captum(cls, values: Tensor, target: int | Tensor, *, method: str = "captum") -> Attribution:
        """An attribution tensor of captum, which has its input's shape."""
        targets = torch.as_tensor(target).expand(len(values))
        return cls(values.detach(), tuple(values.shape), targets, method)

    def heatmap(self) -> Tensor:
        """One map per sample, (batch, rows, columns): channels are summed."""
        return self.values.sum(1) if self.values.ndim == 4 else self.values

    def upsampled(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
        """Maps at the size of the input or another, (batch, height, width).

        Args:
            size: height and width; None: the input's.
            mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        """
        if size is None:
            size = (self.input_shape[-2], self.input_shape[-1])
        maps = self.heatmap()
        if tuple(maps.shape[-2:]) == size:
            return maps
        options: dict[str, Any] = {} if mode == "nearest" else {"align_corners": False}
        return F.interpolate(maps[:, None].float(), size, mode=mode, **options)[:, 0]

    def boxes(self, threshold: float = 0.5) -> list[tuple[int, int, int, int]]:
        """Of each sample the box of the largest area above `threshold` of its min-max map, ends exclusive; see `sat_wsol.boxes`."""
        from explainability.sat_wsol.boxes import box_at

        return [box_at(values.numpy(), threshold) for values in scaled(self.upsampled().cpu(), "minmax")]

    def to_numpy(self) -> NDArray[np.floating]:
        """The values."""
        return self.values.detach().cpu().numpy()

    def to_quantus(self) -> NDArray[np.floating]:
        """(batch, 1, height, width) at the input's size, as Quantus asks for."""
        return self.upsampled()[:, None].detach().cpu().numpy()

    def save(self, path: Path) -> None:
        """Writes an .npz: ``values``, ``upsampled``, ``target`` and the facts as JSON."""
        facts = {"method": self.method, "input_shape": list(self.input_shape), **self.meta}
        np.savez_compressed(
            path,
            values=self.to_numpy(),
            upsampled=self.upsampled().detach().cpu().numpy(),
            target=self.target.cpu().numpy(),
            facts=json.dumps(facts),
        )


def scaled(maps: Tensor, scaling: Scaling = "minmax") -> Tensor:
    """Maps for the eye, each by itself; constant ones become 0, and what is not finite counts as 0.

    Args:
        maps: (batch, height, width).
        scaling: ``"minmax"``: to [0, 1]; ``"absmax"``: to [−1, 1] with 0 at 0; ``"percentile"``: absmax by the 99th percentile, cut
            there; ``"none"``.
    """
    maps = torch.nan_to_num(maps.float(), 0.0, 0.0, 0.0)
    if scaling == "none":
        return maps
    flat = maps.flatten(1)
    if scaling == "minmax":
        low = flat.amin(1)[:, None, None]
        span = flat.amax(1)[:, None, None] - low
        return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), torch.zeros_like(maps))
    if scaling == "absmax":
        top = flat.abs().amax(1)[:, None, None]
    else:
        top = flat.abs().quantile(0.99, 1)[:, None, None]
    whole = torch.where(top > 0, maps / torch.where(top > 0, top, 1), torch.zeros_like(maps))
    return whole.clamp(-1, 1)
