"""The boundary-matching network: where actions start and end, and how well every segment fits one (Lin et al., ICCV 2019).

``BMN-CSA`` gates the encoded features by class semantics (Sridhar et al., ICCV 2021), see `core_attention.mechanisms.csa_action`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.csa_action.class_semantics import CSABlock
from vision_models.actions.model.cells import Cells, Layout, Reading, Sampling, dense_mask, sampling_tensors

MOST_STEPS = 1024  # a map has their square
Placement = Literal["none", "base", "convs"]


@dataclass(frozen=True)
class BMNConfig:
    """The sizes of a BMN; the defaults are those of ActivityNet.

    Attributes:
        channels: of the input features.
        steps: T of the input.
        longest: the most steps of a segment; default: all.
        bins, points, margin, widened: how a cell's features are read, see `Sampling`.
        hidden: channels of the encoder and of the heads of starts and ends.
        pem_channels: channels that enter the boundary-matching layer; default: `hidden` (the paper reduces to 128).
        map_3d, map_2d: channels behind the boundary-matching layer, and of the convolutions over the map.
        groups: of the encoder's convolutions.
        layout: rows and columns of the map, see `Cells`.
        csa: gating by class semantics: none, behind the encoder (base), or behind each of its two convolutions (convs).
        csa_fuse: how CSA's two attended features are fused.
        csa_self_se: squeeze-and-excitation of the encoded features before CSA.
    """

    channels: int = 400
    steps: int = 100
    longest: int | None = None
    bins: int = 32
    points: int = 3
    margin: float = 0.5
    widened: bool = True
    hidden: int = 256
    pem_channels: int | None = None
    map_3d: int = 512
    map_2d: int = 128
    groups: int = 4
    layout: Layout = "start_end"
    csa: Placement = "none"
    csa_fuse: Literal["sum", "max", "product"] = "sum"
    csa_self_se: bool = False

    def __post_init__(self) -> None:
        if self.steps > MOST_STEPS or self.bins * self.points > MOST_STEPS:
            raise ValueError(f"BMN has at most {MOST_STEPS} steps, and as many points of a cell: {self}")
        if self.steps < 2 or self.bins < 1 or self.points < 1 or self.margin < 0:
            raise ValueError(
                f"BMN needs at least 2 steps, 1 bin and 1 point per bin, and a margin of at least 0: {self}"
            )
        for name, size in (("channels", self.channels), ("hidden", self.hidden)):
            if size < 1 or size % self.groups:
                raise ValueError(f"BMN: {name} is {size}, which {self.groups} groups do not divide")
        longest = self.longest or self.steps
        if not 1 <= longest <= self.steps:
            raise ValueError(f"BMN: longest is {longest}, expected 1 to {self.steps} steps")

    @property
    def cells(self) -> Cells:
        return Cells(self.steps, self.longest or self.steps, self.layout)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.bins, self.points, self.margin, self.widened)


class BMNOutput(NamedTuple):
    """What a BMN says of a batch, all in [0, 1].

    Attributes:
        confidence: (batch, 2, rows, columns): of every cell the regressed IoU with an action, and the probability that it is one.
        start, end: (batch, steps): that an action starts or ends at a step.
    """

    confidence: Float[Tensor, "batch 2 rows columns"]
    start: Float[Tensor, "batch steps"]
    end: Float[Tensor, "batch steps"]


class BoundaryMatching(nn.Module):
    """The boundary-matching layer, the convolution over its bins and the first one over the map, as one.

    The published form builds (batch, channels, bins, T, T) features and folds the bins with a Conv3d. Both steps are linear, so their order
    is changed: every bin's weights are applied to the sequence first, ``Y_n = W_n x``, and a sparse matrix then reads each cell,
    ``out = Σ_n Y_n M_n``. Cells that end before they start read nothing and all hold the same values.
    """

    place: Tensor
    part0: Tensor
    part1: Tensor
    part2: Tensor

    def __init__(self, channels: int, folded: int, out: int, cells: Cells, sampling: Sampling) -> None:
        super().__init__()
        self.cells, self.sampling = cells, sampling
        # the Conv3d over bins, as (bins, channels, folded): the layout in which a product takes no copy
        bound = (channels * sampling.bins) ** -0.5  # torch's own initialisation of such a convolution
        self.weight = nn.Parameter(torch.empty(sampling.bins, channels, folded).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(folded).uniform_(-bound, bound))
        self.mix = nn.Conv2d(folded, out, 1)
        for number, part in enumerate(sampling_tensors(cells, sampling)):
            self.register_buffer(f"part{number}", part, persistent=False)
        place = torch.full((cells.shape[0] * cells.shape[1],), len(cells.pairs))
        place[torch.from_numpy(cells.places)] = torch.arange(len(cells.pairs))
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch out rows columns"]:
        parts = [getattr(self, f"part{number}") for number in range(6)]
        folded, out = len(self.bias), self.mix.out_channels
        mix, bias = self.mix.weight[..., 0, 0], self.bias
        nothing = F.linear(torch.relu(bias), mix, self.mix.bias)[None]  # what cells hold that read nothing
        maps = []
        for sequence in x:
            y = (sequence.t() @ self.weight).view(-1, folded)  # (bins · steps, folded)
            if y.device.type in ("cpu", "cuda"):
                with torch.autocast(y.device.type, enabled=False):  # sparse products know no half precision
                    read = Reading.apply(y.float() if y.dtype.itemsize < 4 else y, parts)
            else:
                read = self._dense(y)
            values = F.linear(torch.relu(read + bias), mix, self.mix.bias)
            maps.append(torch.cat([values, nothing.to(values.dtype)])[self.place])
        # channels lie innermost already: convolutions take this order as it is
        return torch.stack(maps).view(len(x), *self.cells.shape, out).permute(0, 3, 1, 2)

    def _dense(self, y: Tensor) -> Tensor:
        """The product with a dense matrix, for devices without sparse ones."""
        pointers, columns, values = self.part0, self.part1, self.part2
        rows = torch.repeat_interleave(torch.arange(len(pointers) - 1, device=y.device), pointers.diff().long())
        matrix = torch.zeros(len(pointers) - 1, len(y), dtype=y.dtype, device=y.device)
        matrix[rows, columns.long()] = values.to(y.dtype)
        return matrix @ y

    def sampled(self, x: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch channels bins rows columns"]:
        """The features of every cell and bin in the published form: the definition, large and slow."""
        mask = dense_mask(self.cells, self.sampling).to(x)
        return (x @ mask).unflatten(2, (self.sampling.bins, *self.cells.shape))

    def definition(self, x: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch out rows columns"]:
        """As `forward`, in the published order."""
        folded = F.conv3d(self.sampled(x), self.weight.permute(2, 1, 0)[..., None, None], self.bias)
        return self.mix(torch.relu(folded).squeeze(2))


class BMN(nn.Module):
    """The boundary-matching network, with or without class semantics.

    Args:
        config: its sizes.
    """

    def __init__(self, config: BMNConfig = BMNConfig()) -> None:
        super().__init__()
        self.config = config
        hidden, groups = config.hidden, config.groups
        narrow = config.pem_channels or hidden

        def convolution(channels: int, out: int, groups: int = 1) -> nn.Conv1d:
            return nn.Conv1d(channels, out, 3, padding=1, groups=groups)

        def gate() -> CSABlock:
            return CSABlock(config.channels, hidden, fuse=config.csa_fuse, self_se=config.csa_self_se)

        self.base = nn.ModuleList([convolution(config.channels, hidden, groups), convolution(hidden, hidden, groups)])
        self.gates = nn.ModuleList([gate() for _ in range({"none": 0, "base": 1, "convs": 2}[config.csa])])
        self.start = nn.Sequential(convolution(hidden, hidden, groups), nn.ReLU(), nn.Conv1d(hidden, 1, 1))
        self.end = nn.Sequential(convolution(hidden, hidden, groups), nn.ReLU(), nn.Conv1d(hidden, 1, 1))
        self.narrow = convolution(hidden, narrow)
        self.matching = BoundaryMatching(narrow, config.map_3d, config.map_2d, config.cells, config.sampling)
        self.map = nn.Sequential(
            nn.Conv2d(config.map_2d, config.map_2d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.map_2d, config.map_2d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.map_2d, 2, 1),
        )

    def encode(self, x: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch hidden steps"]:
        """The base module, with CSA where the configuration places it; R are the input features."""
        features = x
        for number, convolution in enumerate(self.base):
            features = torch.relu(convolution(features))
            if len(self.gates) == 2:
                features = self.gates[number](x, features)
        if len(self.gates) == 1:
            features = self.gates[0](x, features)
        return features

    def forward(self, x: Float[Tensor, "batch channels steps"]) -> BMNOutput:
        """See `BMNOutput`.

        Raises:
            ValueError: features of another shape than the network's; both are quoted.
        """
        config = self.config
        if x.ndim != 3 or x.shape[1:] != (config.channels, config.steps):
            raise ValueError(f"BMN needs features (batch, {config.channels}, {config.steps}), got {tuple(x.shape)}")
        features = self.encode(x)
        start, end = torch.sigmoid(self.start(features))[:, 0], torch.sigmoid(self.end(features))[:, 0]
        matched = torch.relu(self.matching(torch.relu(self.narrow(features))))
        return BMNOutput(torch.sigmoid(self.map(matched)), start, end)
