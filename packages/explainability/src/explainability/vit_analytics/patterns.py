"""Which patterns of attention there are: an autoencoder's latents of patch-to-patch maps, clustered (after Li et al., PacificVis 2023).

There is no public code: sizes, scaling and clustering are ours and stand in the method's page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

SIDE, LATENT, CHANNELS = 64, 32, (16, 32, 64, 128)
CLIP = 4.0  # of √(a n): a patch that gets 16 times the uniform share is white


def scale_maps(weights: Float[Tensor, "s n n"]) -> Float[Tensor, "s 1 64 64"]:
    """``√(a n)``, cut at 4 and brought to [0, 1], at 64 × 64: by area where the map is larger, by nearest neighbours where it is smaller."""
    n = weights.shape[-1]
    scaled = (weights.float() * n).sqrt().clamp(max=CLIP) / CLIP
    mode = "area" if n > SIDE else "nearest"
    return F.interpolate(scaled[:, None], (SIDE, SIDE), mode=mode)


class PatternAutoencoder(nn.Module):
    """Four convolutions of stride 2, a linear layer to 32 numbers, and the same mirrored."""

    def __init__(self) -> None:
        super().__init__()
        encoder: list[nn.Module] = []
        before = 1
        for channels in CHANNELS:
            encoder += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.ReLU()]
            before = channels
        self.side = SIDE // 2 ** len(CHANNELS)
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), nn.Linear(before * self.side**2, LATENT))
        self.expand = nn.Linear(LATENT, before * self.side**2)
        decoder: list[nn.Module] = []
        for channels in (*reversed(CHANNELS[:-1]), 1):
            decoder += [nn.ConvTranspose2d(before, channels, 3, stride=2, padding=1, output_padding=1), nn.ReLU()]
            before = channels
        self.decoder = nn.Sequential(*decoder[:-1], nn.Sigmoid())

    def decode(self, latent: Float[Tensor, "s 32"]) -> Float[Tensor, "s 1 64 64"]:
        """Maps of latents."""
        return self.decoder(F.relu(self.expand(latent)).unflatten(1, (CHANNELS[-1], self.side, self.side)))

    def forward(self, maps: Float[Tensor, "s 1 64 64"]) -> Float[Tensor, "s 1 64 64"]:
        """The maps again."""
        return self.decode(self.encoder(maps))


def train_autoencoder(
    maps: Float[Tensor, "s 1 64 64"], *, epochs: int = 20, batch_size: int = 64, lr: float = 1e-3, seed: int = 0
) -> tuple[PatternAutoencoder, float]:
    """The trained network and its mean squared error; the same under the same seed."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = PatternAutoencoder()
        optimiser = torch.optim.Adam(network.parameters(), lr)
        for _ in range(epochs):
            for batch in torch.randperm(len(maps)).split(batch_size):
                loss = F.mse_loss(network(maps[batch]), maps[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    network.eval().requires_grad_(False)
    with torch.no_grad():
        error = float(sum(F.mse_loss(network(part), part, reduction="sum") for part in maps.split(256)) / maps.numel())
    return network, error


def cluster(latents: Float[Tensor, "s d"], k: int, *, seed: int = 0, starts: int = 5) -> Int[Tensor, " s"]:
    """k-means of standardised latents; the best of several starts. Clusters are numbered by size, the largest first."""
    import numpy as np
    from scipy.cluster.vq import kmeans2

    values = latents.double()
    values = ((values - values.mean(0)) / values.std(0).clamp(min=1e-9)).numpy()
    best, least = np.zeros(len(values), np.int64), np.inf
    for start in range(starts):
        centres, labels = kmeans2(values, k, minit="++", rng=np.random.default_rng(seed + start), missing="warn")
        spread = float(((values - centres[labels]) ** 2).sum())
        if spread < least:
            best, least = labels, spread
    order = np.argsort(-np.bincount(best, minlength=k), kind="stable")
    rank = np.empty(k, np.int64)
    rank[order] = np.arange(k)
    return torch.from_numpy(rank[best])


def silhouette(latents: Float[Tensor, "s d"], labels: Int[Tensor, " s"], most: int = 1000) -> float:
    """Mean silhouette over at most so many evenly spread samples: 1 clusters far apart, 0 touching ones; 0 with one cluster."""
    step = max(1, len(latents) // most)
    x, y = latents[::step].double(), labels[::step]
    kinds = y.unique()
    if len(kinds) < 2:
        return 0.0
    distance = torch.cdist(x, x)
    members = (y[:, None] == kinds).double()
    sums, counts = distance @ members, members.sum(0)
    own = members.bool()
    inside = sums[own] / (counts[None].expand_as(sums)[own] - 1).clamp(min=1)
    outside = (sums / counts).masked_fill(own, torch.inf).amin(1)
    score = (outside - inside) / torch.maximum(outside, inside).clamp(min=1e-12)
    alone = counts[None].expand_as(sums)[own] == 1
    return float(score.masked_fill(alone, 0.0).mean())


def choose_clusters(
    latents: Float[Tensor, "s d"], counts: Sequence[int] = range(8, 13), *, seed: int = 0
) -> tuple[Int[Tensor, " s"], float]:
    """The clustering with the best silhouette, and that silhouette."""
    best: tuple[Tensor, float] | None = None
    for k in counts:
        if k >= len(latents):
            continue
        labels = cluster(latents, k, seed=seed)
        score = silhouette(latents, labels)
        if best is None or score > best[1]:
            best = labels, score
    if best is None:
        return torch.zeros(len(latents), dtype=torch.long), 0.0
    return best


def project(latents: Float[Tensor, "s d"]) -> Float[Tensor, "s 2"]:
    """The first two principal components; signs are fixed by the greatest entry, so that the picture is the same each time."""
    centred = latents.double() - latents.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (centred @ (axes * signs).T).float()


@dataclass(frozen=True)
class Pattern:
    """A cluster of maps.

    Attributes:
        number: of the cluster.
        share: of all maps.
        medoid: the sample nearest to the cluster's mean.
        suggestion: what kind of pattern it looks like.
    """

    number: int
    share: float
    medoid: int
    suggestion: str


def suggest(weights: Float[Tensor, "n n"], grid: tuple[int, int]) -> str:
    """What kind of pattern a map is, from where its mass lies."""
    rows, columns = grid
    n = rows * columns
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = (y[:, None] - y).abs(), (x[:, None] - x).abs()
    mean = weights.float() / n

    def above(places: Tensor) -> float:
        """Mass at these places, less what uniform attention has there, as a share of what it could gain."""
        uniform = float(places.float().mean())
        return (float(mean[places].sum()) - uniform) / max(1e-9, 1 - uniform)

    entropy = float(torch.special.entr(weights.float()).sum(-1).mean() / torch.log(torch.tensor(float(max(2, n)))))
    if entropy > 0.97:
        return "uniform"
    scores = {
        "self": above((dy == 0) & (dx == 0)),
        "local": above(torch.maximum(dy, dx) <= 1),
        "rows": above(dy == 0),
        "columns": above(dx == 0),
    }
    # few keys that all queries look at
    keys = weights.float().mean(0)
    scores["few key patches"] = float(keys.topk(max(1, n // 16)).values.sum() - max(1, n // 16) / n)
    best = max(scores.values())
    if best < 0.25:
        return "mixed"
    # a patch lies in its own neighbourhood, row and column: the most specific of those that explain nearly as much
    return next(name for name, score in scores.items() if score > 0.8 * best)


def describe_patterns(
    weights: Float[Tensor, "s n n"], latents: Float[Tensor, "s d"], labels: Int[Tensor, " s"], grid: tuple[int, int]
) -> list[Pattern]:
    """Each cluster's share, medoid and suggestion (of its mean map)."""
    patterns = []
    for number in range(int(labels.max()) + 1):
        members = (labels == number).nonzero()[:, 0]
        centre = latents[members].mean(0)
        medoid = int(members[(latents[members] - centre).norm(dim=1).argmin()])
        mean = weights[members].float().mean(0)
        patterns.append(Pattern(number, len(members) / len(labels), medoid, suggest(mean, grid)))
    return patterns


def head_histograms(
    labels: Int[Tensor, "images layers heads"], count: int
) -> tuple[Float[Tensor, "layers heads count"], Float[Tensor, "layers heads"]]:
    """Share of images in which a head shows each pattern, and its purity: 1 a head that always shows the same (a positional head)."""
    shares = F.one_hot(labels, count).float().mean(0)
    return shares, shares.amax(-1)
