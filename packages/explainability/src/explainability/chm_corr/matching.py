"""How cells of a query find their place in support images: by the nearest features, or by convolutional Hough matching."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_runtime.errors import UserError, named
from explainability.chm_corr.kernels import KernelType, parameters
from explainability.chm_corr.learner import CHMLearner
from explainability.chm_corr.official import convert, split_trunks
from explainability.chm_corr.transfer import CELLS_OF_POINTS, GRID, source_keypoints, target_cells, transfer_keypoints
from explainability.models.loading import Classifier

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 240  # pixels a side of what CHM compares
KINDS: tuple[KernelType, ...] = ("psi", "iso", "full")


def nearest_cells(query: Float[Tensor, "c 7 7"], support: Float[Tensor, "n c 7 7"]) -> Int[Tensor, "n 49 2"]:
    """For each point of the query the cell (x, y) of each support image whose features have the greatest cosine with its own.

    It needs no trained network of correspondences, and keeps no neighbourhood together: two cells side by side may go far apart.
    """
    q = F.normalize(query.flatten(1), dim=0)
    s = F.normalize(support.flatten(2), dim=1)
    best = torch.einsum("ck,ncm->nkm", q, s).argmax(2)  # (n, 49 cells in row-major order)
    best = best[:, CELLS_OF_POINTS.to(best.device)]
    return torch.stack([best % GRID, best // GRID], -1)


class Trunk(nn.Module):
    """A ResNet-101 up to its third stage."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet101

        whole = resnet101(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1024 h16 w16"]:
        """Features at a sixteenth of the resolution."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        return self.layer3(self.layer2(self.layer1(x)))


class CHMNet(nn.Module):
    """Two trunks and the learner, as published checkpoints hold them: one trunk sees the query, the other the support images.

    Args:
        kind: how the learner's kernels share parameters.
    """

    def __init__(self, kind: KernelType = "psi") -> None:
        super().__init__()
        self.source, self.target = Trunk(), Trunk()
        self.learner = CHMLearner(1024, kind=kind)

    @torch.inference_mode()
    def scales_of_query(self, image: Float[Tensor, "1 3 240 240"]) -> list[Tensor]:
        """What the query brings to every comparison."""
        return self.learner.at_scales(self.source(image))

    @torch.inference_mode()
    def scales_of_support(self, image: Float[Tensor, "b 3 240 240"]) -> list[Tensor]:
        """What an index keeps of support images."""
        return self.learner.at_scales(self.target(image))

    @torch.inference_mode()
    def cells(self, query: Sequence[Tensor], support: Sequence[Tensor]) -> Int[Tensor, "n 49 2"]:
        """The cell (x, y) of each support image that each point of the query goes to."""
        targets = []
        for first in range(len(support[0])):
            pair = [scale[first : first + 1].float() for scale in support]
            correlation = self.learner.match(query, pair, SIDE // 16)
            targets.append(target_cells(transfer_keypoints(correlation, source_keypoints(SIDE).to(correlation))))
        return torch.cat(targets)


def prepare(image: "Image", device: torch.device | str) -> Tensor:
    """A picture as CHM takes it: whole, 240 × 240, normalised."""
    return Classifier(nn.Identity(), (SIDE, SIDE), *IMAGENET).prepare(image).to(device)


def load_chm(checkpoint: Path, device: str = "cpu") -> CHMNet:
    """The network of a published checkpoint (``pas_psi.pt``, ``pas_iso.pt``, ``pas_full.pt``), loaded strictly.

    Raises:
        UserError: it cannot be read, or is not such a checkpoint.
    """
    from core_attention.checkpoints.files import read_official

    if not checkpoint.is_file():
        raise UserError(
            f"no such file: {checkpoint}", "--chm takes pas_psi.pt, pas_iso.pt or pas_full.pt of CHM's authors"
        )
    try:
        official = dict(read_official(checkpoint))
        network = CHMNet(_kind_of(official))
        network.load_state_dict(state_of(official))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(named(checkpoint, error), "expected a checkpoint of CHM: backbone.* and learner.*") from None
    return network.requires_grad_(False).to(device).eval()


def _kind_of(official: Mapping[str, Tensor]) -> KernelType:
    for name, tensor in official.items():
        if name.endswith("chm4d.weight"):
            for kind in KINDS:
                if parameters(5, kind) == tensor.numel():
                    return kind
            raise ValueError(f"{name} holds {tensor.numel()} numbers; kernels have 55 (psi), 15 (iso) or 625 (full)")
    raise ValueError("no tensor learner.chm4d.weight")


def state_of(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors of a published checkpoint under the names of `CHMNet`; what follows the third stage is not used and left out."""
    plain = {name.removeprefix("module."): tensor for name, tensor in official.items()}
    backbone = {}
    for name, tensor in plain.items():
        if name.startswith("backbone.") and not name.startswith(("backbone.layer4.", "backbone.fc.")):
            backbone[name] = tensor
    source, target = split_trunks(backbone)
    state = {f"source.{name}": tensor for name, tensor in source.items()}
    state |= {f"target.{name}": tensor for name, tensor in target.items()}
    learner = convert({name: tensor for name, tensor in plain.items() if name.startswith("learner.")}, {})
    return state | {f"learner.{name}": tensor for name, tensor in learner.items()}
