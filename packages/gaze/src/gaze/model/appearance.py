"""What a token looks like: a small network over the crop of an object."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_CHANNELS = 32


def pyramid_pool(maps: Float[Tensor, "crops channels height width"], levels: int) -> Float[Tensor, "crops features"]:
    """Spatial pyramid max pooling: 1, 2, 4, … bins per side; of the features, coarse levels first.

    The map is padded with zeros until the bins are equal, the odd row or column at the bottom and right. Bins beyond a map that is smaller
    than they are many hold 0.
    """
    height, width = maps.shape[-2:]
    pooled = []
    for level in range(levels):
        bins = 2**level
        size = (-(-height // bins), -(-width // bins))
        rows, columns = bins * size[0] - height, bins * size[1] - width
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        pooled.append(F.max_pool2d(F.pad(maps, padding), size).flatten(1))
    return torch.cat(pooled, 1)


class AppearanceEncoder(nn.Module):
    """Crops (batch, 3, height, width) with values between 0 and 1 to vectors.

    Convolution 5×5 to 16 channels, ReLU, max pooling 5; convolution 3×3 to 32 channels, ReLU; then max pooling 3 (`pyramid` 0: crops have the
    size for which the network was made) or spatial pyramid pooling (any size); a linear map.
    """

    def __init__(self, width: int, *, pyramid: int, crop: tuple[int, int]) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.first = nn.Conv2d(3, 16, 5)
        self.second = nn.Conv2d(16, _CHANNELS, 3)
        self.project = nn.Linear(feature_count(pyramid, crop), width)

    def forward(self, crops: Float[Tensor, "crops 3 height width"]) -> Float[Tensor, "crops width"]:
        maps = F.max_pool2d(F.relu(self.first(crops)), 5)
        maps = F.relu(self.second(maps))
        if self.pyramid:
            return self.project(pyramid_pool(maps, self.pyramid))
        features = F.max_pool2d(maps, 3).flatten(1)
        if features.shape[1] != self.project.in_features:
            size = tuple(crops.shape[-2:])
            raise ValueError(f"crops of {size} pixels do not fit this model: resize them to its config's crop size")
        return self.project(features)


def feature_count(pyramid: int, crop: tuple[int, int]) -> int:
    """How many numbers the pooled maps of a crop have.

    Raises:
        ValueError: the crop is too small for the convolutions, or for max pooling after them.
    """
    maps = [(size - 4) // 5 - 2 for size in crop]
    if min(maps) < 1:
        raise ValueError(f"crops of {crop[0]} × {crop[1]} pixels are too small: use 19 pixels or more")
    if pyramid:
        return _CHANNELS * sum(4**level for level in range(pyramid))
    if min(maps) < 3:
        raise ValueError(
            f"crops of {crop[0]} × {crop[1]} pixels are too small for max pooling: use 29 pixels or more, or a pyramid"
        )
    return _CHANNELS * (maps[0] // 3) * (maps[1] // 3)
