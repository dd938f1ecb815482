"""Where a token is: one table of vectors that is as alike as its rows are near (Fang et al. 2024, distance-based positional encoding)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_PADDING = 4  # rows of zeros below the table, as published


def gaussian_similarity(rows: int, sigma: float) -> Float[Tensor, "rows rows"]:
    """The cosine that two rows of the table shall have: ``exp(-(i - j)² / (2 σ²))``."""
    index = torch.arange(rows, dtype=torch.float32)
    return torch.exp(-((index[:, None] - index[None]) ** 2) / (2 * sigma**2))


def table_loss(table: Float[Tensor, "rows width"], sigma: float) -> Float[Tensor, ""]:
    """How far a table is from its aim: cosines that follow the distance, and norms that are all equal.

    ``[Σ_ij (cos_ij - target_ij)² + mean_i (|P_i| - mean|P|)²] / (M (M - 1))`` for M rows.
    """
    rows = len(table)
    norms = table.norm(dim=1)
    directions = table / norms[:, None]
    cosines = directions @ directions.T
    cosine_error = ((cosines - gaussian_similarity(rows, sigma).to(table)) ** 2).sum()
    norm_error = ((norms - norms.mean()) ** 2).mean()
    return (cosine_error + norm_error) / (rows * (rows - 1))


def optimise_table(
    start: Float[Tensor, "rows width"], *, sigma: float = 2.0, steps: int = 10_000, lr: float = 0.01
) -> tuple[Float[Tensor, "rows width"], float]:
    """Optimises a table with Adam.

    Args:
        start: first values; published: standard normal.
        sigma: width of the similarity, in rows.
        steps: of Adam.
        lr: its learning rate.

    Returns:
        The table, and its loss before the last step (0 steps: its loss).
    """
    with torch.enable_grad():
        table = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([table], lr=lr)
        loss = table_loss(table, sigma)
        for step in range(steps):
            if step:
                loss = table_loss(table, sigma)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return table.detach(), loss.item()


def position_table(rows: int, width: int, *, sigma: float = 2.0, seed: int = 0) -> Float[Tensor, "rows width"]:
    """The optimised table of a new model, the same under a seed.

    The aim has a closed form, which Adam approaches in 10,000 steps: rows of equal norm whose Gram matrix is the Gaussian, that is, its
    eigenvectors times the roots of its eigenvalues. The table is that, turned at random, with the norm that the published tables have
    (``√width``: they start from a standard normal). Where it is narrower than it has rows, the largest eigenvalues are kept; a Gaussian's fall
    so fast that little is lost.
    """
    values, vectors = torch.linalg.eigh(gaussian_similarity(rows, sigma).double())  # in ascending order
    rank = min(rows, width)
    factor = vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
    factor = factor / factor.norm(dim=1, keepdim=True)
    turn = torch.randn(width, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(turn).Q
    return (factor @ basis.T * math.sqrt(width)).float()


def embed_positions(
    table: Float[Tensor, "rows width"], places: Float[Tensor, "*batch 3"], size: int
) -> Float[Tensor, "*batch size"]:
    """``concat(P[row], P[column], P[flag])``, cut to `size`; between rows of the table, interpolated.

    Args:
        table: one table for all three coordinates.
        places: row, column and flag (1: the searched target) of every token. Whole numbers take rows of the table exactly.
        size: channels of the result.

    Raises:
        ValueError: a coordinate lies outside the table.
    """
    extended = torch.cat([table, table.new_zeros(_PADDING, table.shape[1])])
    if places.numel() and not bool(((places >= 0) & (places <= len(extended) - 1)).all()):
        low, high = places.min().item(), places.max().item()
        raise ValueError(
            f"positions lie between 0 and {len(extended) - 1} (rows of the table), got {low:g} to {high:g}"
        )
    below = places.floor()
    share = (places - below)[..., None].to(table.dtype)
    index = below.long()
    above = (index + 1).clamp(max=len(extended) - 1)
    vectors = torch.lerp(extended[index], extended[above], share)
    return vectors.flatten(-2)[..., :size]


def time_encoding(steps: int, width: int) -> Float[Tensor, "steps width"]:
    """The sinusoid over time steps (Vaswani et al. 2017): sine in even channels, cosine in odd ones, base 10,000."""
    rate = torch.exp(-torch.arange(0, width, 2) * math.log(10_000) / width)
    angle = torch.arange(steps)[:, None] * rate
    encoding = torch.zeros(steps, width)
    encoding[:, 0::2] = torch.sin(angle)
    encoding[:, 1::2] = torch.cos(angle)
    return encoding
