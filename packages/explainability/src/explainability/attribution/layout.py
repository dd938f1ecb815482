"""Where on the image activations are: tokens with a prefix, maps with channels first or last."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

Grid = tuple[int, int] | None  # rows and columns of patches; None: inferred

MOST_PREFIX = 9  # CLS, a distillation token, up to eight registers less one


@dataclass(frozen=True)
class Layout:
    """How an activation is laid out.

    Attributes:
        kind: ``"tokens"``: (batch, prefix + rows · columns, channels); ``"channels first"``: (batch, channels, rows, columns);
            ``"channels last"``: (batch, rows, columns, channels).
        prefix: tokens before the patches.
        rows: of the grid.
        columns: of the grid.
    """

    kind: str
    prefix: int
    rows: int
    columns: int

    def to_maps(self, activation: Tensor) -> Tensor:
        """(batch, channels, rows, columns), whatever the layout."""
        if self.kind == "tokens":
            patches = activation[:, self.prefix : self.prefix + self.rows * self.columns]
            return patches.transpose(1, 2).unflatten(2, (self.rows, self.columns))
        if self.kind == "channels last":
            return activation.permute(0, 3, 1, 2)
        return activation


def grids(tokens: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """(prefix, rows, columns) that fit a number of tokens and the image's proportions, the shortest prefix first."""
    fitting = []
    for prefix in range(min(MOST_PREFIX, tokens)):
        patches = tokens - prefix
        rows = math.sqrt(patches * height / width)
        columns = math.sqrt(patches * width / height)
        if round(rows) * round(columns) == patches and abs(rows - round(rows)) < 1e-6:
            fitting.append((prefix, round(rows), round(columns)))
    return fitting


def infer_layout(
    shape: tuple[int, ...], image: tuple[int, int], model: nn.Module | None = None, grid: tuple[int, int] | None = None
) -> Layout:
    """The layout of an activation of this shape.

    A grid given wins; then what the model says of itself (timm's ``patch_embed`` and ``num_prefix_tokens``); then the one prefix of at most
    eight tokens whose rest has the proportions of the image.

    Args:
        shape: of the activation.
        image: height and width of the input.
        model: the model.
        grid: rows and columns, where the user knows them.

    Raises:
        ValueError: nothing fits, or several grids do; states the shape and the candidates.
    """
    if len(shape) == 4:
        return _of_map(shape, image, grid)
    if len(shape) != 3:
        raise ValueError(f"an activation of shape {shape} is neither tokens (batch, tokens, channels) nor a map")
    tokens = shape[1]
    if grid is not None:
        prefix = tokens - grid[0] * grid[1]
        if prefix < 0:
            raise ValueError(
                f"a grid of {grid[0]} × {grid[1]} needs {grid[0] * grid[1]} tokens, shape {shape} has {tokens}"
            )
        return Layout("tokens", prefix, *grid)
    known = getattr(model, "num_prefix_tokens", None)
    embedding = getattr(model, "patch_embed", None)
    if isinstance(known, int) and hasattr(embedding, "dynamic_feat_size"):
        rows, columns = embedding.dynamic_feat_size(image)  # pyright: ignore[reportOptionalMemberAccess]
        if known + rows * columns == tokens:
            return Layout("tokens", known, rows, columns)
    fitting = grids(tokens, *image)
    if len(fitting) > 1:
        # CLS alone is by far the most frequent prefix
        usual = [fit for fit in fitting if fit[0] in (0, 1)]
        fitting = usual if len(usual) == 1 else fitting
    if len(fitting) != 1:
        candidates = ", ".join(f"{rows} × {columns} after {prefix}" for prefix, rows, columns in fitting) or "none"
        raise ValueError(
            f"shape {shape} for an image of {image[0]} × {image[1]} pixels: no single grid fits its {tokens} tokens "
            f"(candidates: {candidates}); give --grid ROWS,COLUMNS"
        )
    prefix, rows, columns = fitting[0]
    return Layout("tokens", prefix, rows, columns)


def _of_map(shape: tuple[int, ...], image: tuple[int, int], grid: tuple[int, int] | None) -> Layout:
    first, last = shape[2:4], shape[1:3]
    if grid is not None:
        if first == tuple(grid):
            return Layout("channels first", 0, *grid)
        if last == tuple(grid):
            return Layout("channels last", 0, *grid)
        raise ValueError(f"a grid of {grid[0]} × {grid[1]} is not in shape {shape}")
    # a map is a whole-number reduction of the image with one factor for both sides, up to rounding
    fits = []
    for name, (rows, columns) in (("channels first", first), ("channels last", last)):
        error = abs(rows / columns - image[0] / image[1]) / (image[0] / image[1])
        if rows <= image[0] and columns <= image[1] and error < 0.2:
            fits.append((error, name, rows, columns))
    if not fits:
        raise ValueError(
            f"shape {shape} holds no map of an image of {image[0]} × {image[1]} pixels; give --grid ROWS,COLUMNS"
        )
    if len(fits) == 2 and fits[0][0] == fits[1][0]:
        raise ValueError(f"shape {shape}: channels may come first or last; give --grid ROWS,COLUMNS")
    _, name, rows, columns = min(fits)
    return Layout(name, 0, rows, columns)
