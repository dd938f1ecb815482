"""A network with its preparation and classes: a volume in, labels on its own grid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core_runtime.errors import UserError
from medical_segmentation.organs.model.guided import GuidedAttentionNet
from medical_segmentation.organs.model.preparation import Preparation, Prepared, prepare, with_neighbours
from medical_segmentation.organs.model.streaming import Answer, answer, window_scores
from medical_segmentation.organs.options import InferenceOptions
from medical_segmentation.volumes.volume import Volume

LEAST_AIR = -200.0  # Hounsfield units: air, at -1000, is below it in every CT, also where the lungs were cut away


@dataclass(frozen=True, eq=False)
class OrganModel:
    """Networks (more than one is an ensemble, whose probabilities are averaged) ready to predict.

    Attributes:
        networks: of one kind of input and the same classes.
        preparation: of the input.
        classes: names, background first.
        channels: names of the channels.
        provenance: how the weights were made.
        temperature: what logits are divided by for calibrated probabilities.
        threshold: confidence below which the model abstains; None if it was not calibrated.
    """

    networks: Sequence[nn.Module]
    preparation: Preparation
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    provenance: Mapping[str, Any]
    temperature: float = 1.0
    threshold: float | None = None
    path: Path | None = None

    def doubts(self, volume: Volume) -> list[str]:
        """Why answers about this volume may mean nothing: another modality than the model's, or a model of drawings."""
        doubts = []
        if self.provenance.get("drawn"):
            doubts.append("the model was trained on drawings only: its answers about a patient mean nothing")
        expected = {name.upper() for name in self.channels} & {"CT", "MR", "MRI", "PT", "US"}
        found = "MR" if volume.modality == "MRI" else volume.modality
        if expected and found and found not in {"MR" if name == "MRI" else name for name in expected}:
            doubts.append(f"the model was trained on {' and '.join(sorted(expected))}, this is {found}")
        elif expected == {"CT"} and float(volume.array.min()) > LEAST_AIR:
            doubts.append(f"no voxel is below {LEAST_AIR:g}, where CT holds air: is this CT in Hounsfield units?")
        return doubts

    @property
    def device(self) -> str:
        return str(next(self.networks[0].parameters()).device)

    @torch.inference_mode()
    def probabilities(self, x: Tensor, *, flips: bool = False) -> Tensor:
        """Class probabilities of a batch of slices or windows."""
        axes: list[tuple[int, ...]] = [()]
        if flips:
            for axis in range(2, x.ndim):
                axes += [(*each, axis) for each in axes]
        total: Tensor | None = None
        for network in self.networks:
            for each in axes:
                logits = network(x.flip(each)).flip(each).float() / self.temperature
                share = logits.softmax(1)
                total = share if total is None else total.add_(share)
        assert total is not None
        return total / (len(self.networks) * len(axes))

    def predict(self, volume: Volume, settings: InferenceOptions = InferenceOptions()) -> Answer:
        """Labels (and confidence) on the volume's own grid, in its own axes.

        Raises:
            UserError: another number of channels than the model takes.
        """
        if volume.channels != len(self.channels):
            raise UserError(
                f"{volume.name} has {volume.channels} channel(s), the model takes {len(self.channels)} ({', '.join(self.channels)})",
                "--channel 0 chooses one of a 4-D file; nnU-Net folders give one file per channel",
            )
        prepared = prepare(volume, self.preparation)
        size = tuple(prepared.shape[axis] for axis in prepared.order)
        depth = prepared.image.shape[3]
        if self.preparation.dims == 2:
            slabs = self.slice_scores(prepared.image, settings)
        else:
            slabs = window_scores(
                lambda x: self.probabilities(x, flips=settings.flips),
                prepared.image,
                self.preparation.window,
                overlap=settings.overlap,
                batch=settings.batch,
                device=self.device,
            )
        keep = settings.confidence or settings.abstain
        result = answer(slabs, size, depth, confidence=keep, probabilities=True)
        back = np.argsort(prepared.order).tolist()
        sure = result.confidence
        return Answer(
            np.ascontiguousarray(prepared.turn.invert(result.labels.transpose(back))),
            None if sure is None else np.ascontiguousarray(prepared.turn.invert(sure.transpose(back))),
        )

    def slice_scores(self, image: NDArray[np.float32], settings: InferenceOptions) -> Iterator[tuple[int, Tensor]]:
        """Class probabilities slab by slab: every slice with its neighbours, as many at a time as the batch says."""
        depth = image.shape[3]
        for begin in range(0, depth, settings.batch):
            numbers = range(begin, min(begin + settings.batch, depth))
            batch = np.stack([with_neighbours(image, k, self.preparation.slices) for k in numbers])
            scores = self.probabilities(torch.from_numpy(batch).to(self.device), flips=settings.flips)
            yield begin, scores.cpu().permute(1, 2, 3, 0)

    def attention(self, prepared: Prepared, k: int) -> NDArray[np.float32] | None:
        """Where the second stage's guided attention lies in one slice of the prepared volume, 0 to 1; None for other networks and 3-D."""
        network = self.networks[0]
        if not isinstance(network, GuidedAttentionNet) or self.preparation.dims == 3:
            return None
        strengths: list[Tensor] = []
        hook = network.stages[1].register_forward_hook(lambda module, inputs, outputs: strengths.append(outputs[0]))
        try:
            x = torch.from_numpy(with_neighbours(prepared.image, k, self.preparation.slices))[None].to(self.device)
            with torch.inference_mode():
                network(x)
        finally:
            hook.remove()
        strength = torch.stack([each.abs().mean(1)[0] for each in strengths]).mean(0)
        span = (strength.max() - strength.min()).clamp(min=1e-9)
        return ((strength - strength.min()) / span).cpu().numpy()


def memory_forecast(
    shape: Sequence[int], classes: int, preparation: Preparation, grid: Sequence[int]
) -> dict[str, float]:
    """Gigabytes that a prediction holds beyond the network: the input, one slab of scores, the answer."""
    voxels = float(np.prod(shape))
    seen = float(np.prod(grid))
    if preparation.dims == 3:
        a, b = (max(side, window) for side, window in zip(grid[:2], preparation.window, strict=False))
        slab = a * b * preparation.window[2] * classes * 4
    else:
        order = slice_order_sides(grid, preparation.axis)
        slab = order * classes * 4 * 4
    rest = (voxels + seen) * 4 + voxels
    return {
        "input": (voxels + seen) * 4 / 1e9,
        "scores": slab / 1e9,
        "answer": voxels / 1e9,
        "if every score were kept": (rest + voxels * classes * 4) / 1e9,
    }


def slice_order_sides(grid: Sequence[int], axis: int) -> float:
    """Pixels of one slice."""
    return float(np.prod([side for number, side in enumerate(grid) if number != axis]))
