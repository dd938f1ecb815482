"""From text columns to a heat map of the sentence, and the point that it peaks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.mechanisms.refam.cross_maps import CrossMap
from core_attention.mechanisms.refam.sinks import KAPPA, Cleaning, clean, find_sinks


@dataclass(frozen=True)
class TextTokens:
    """What the text tokens of a prompt are.

    Attributes:
        words: for each word that counts, the positions of its sub-word tokens.
        names: the words, for people; as many as `words`, or none.
        stop: positions of stop words and punctuation.
        magnets: positions of the words appended to attract attention.
        special: positions of begin, end and padding.
    """

    words: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    stop: tuple[int, ...] = ()
    magnets: tuple[int, ...] = ()
    special: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.words or not all(self.words):
            raise ValueError("refam: no word of the sentence is left: it holds only stop words, or nothing")
        if self.names and len(self.names) != len(self.words):
            raise ValueError(f"refam: {len(self.names)} names for {len(self.words)} words")
        filtered = {*self.stop, *self.magnets, *self.special}
        for positions in self.words:
            both = filtered.intersection(positions)
            if both:
                raise ValueError(f"refam: tokens {sorted(both)} belong to a word and are to be filtered out")


@dataclass(frozen=True)
class Cleaner:
    """How the sinks of each layer are handled.

    Attributes:
        kappa: fair shares of attention that make a token a sink.
        mode: what becomes of sinks.
    """

    kappa: float = KAPPA
    mode: Cleaning = "suppress"


@dataclass
class Accumulated:
    """The cleaned text columns of one prompt, averaged over layers as they come.

    Attributes:
        tokens: what the text tokens are.
        cleaner: how sinks are handled.
        sinks: the sinks of each layer, by its name, (text tokens,) each.
    """

    tokens: TextTokens
    cleaner: Cleaner = Cleaner()
    sinks: dict[str, Tensor] = field(default_factory=dict)
    _total: Tensor | None = None
    _layers: int = 0

    def add(self, layer: str, cross: Float[Tensor, "image text"], load: Float[Tensor, " text"]) -> None:
        """Adds one layer of one forward pass; only the running sum is kept."""
        sinks = find_sinks(load, magnets=self.tokens.magnets, kappa=self.cleaner.kappa)
        cleaned = clean(cross, sinks, magnets=self.tokens.magnets, mode=self.cleaner.mode)
        self._total = cleaned.clone() if self._total is None else self._total.add_(cleaned)
        self._layers += 1
        seen_before = self.sinks.get(layer)  # in another forward pass: several noises
        self.sinks[layer] = sinks if seen_before is None else seen_before | sinks

    @property
    def cross(self) -> Float[Tensor, "image text"]:
        """Mean over what was added.

        Raises:
            ValueError: nothing was.
        """
        if self._total is None:
            raise ValueError("refam: no layer was collected; run the model inside `collect`")
        return self._total / self._layers


class Heatmap(NamedTuple):
    """Where a sentence points.

    Attributes:
        heat: (rows, columns) in 0…1; of a video (frames, rows, columns).
        words: (words, picture tokens), each between 0 and 1.
        point: (x, y) of the warmest cell's centre as shares of width and height; of a video in its warmest frame.
        frame: the warmest frame; 0 of a picture.
    """

    heat: Tensor
    words: Tensor
    point: tuple[float, float]
    frame: int = 0


def word_maps(cross: Float[Tensor, "image text"], words: Sequence[Sequence[int]]) -> Float[Tensor, "words image"]:
    """The map of each word: mean over its sub-word tokens, then stretched to 0…1. A map without any difference becomes 0."""
    maps = torch.stack([cross[:, list(positions)].mean(1) for positions in words])
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    return (maps - low) / (high - low).masked_fill(high == low, 1.0)


def heatmap(
    cross: Float[Tensor, "image text"],
    tokens: TextTokens,
    grid: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    prior: Tensor | None = None,
) -> Heatmap:
    """The mean of the words' maps on the picture's grid, and its peak; of equal peaks the first.

    Args:
        cross: cleaned text columns (see `Accumulated`).
        tokens: which columns are words.
        grid: (rows, columns) of the picture tokens, or (frames, rows, columns) of a video's.
        weights: of the words; None: all alike.
        prior: (rows, columns), multiplied into the map, as `spatial_prior` makes it.

    Raises:
        ValueError: a grid that does not hold the tokens, or weights that do not fit the words.
    """
    count = 1
    for side in grid:
        count *= side
    if count != cross.shape[0]:
        raise ValueError(f"refam: a grid of {tuple(grid)} has {count} cells, got {cross.shape[0]} picture tokens")
    maps = word_maps(cross, tokens.words)
    if weights is None:
        heat = maps.mean(0)
    else:
        if len(weights) != len(maps) or sum(weights) <= 0:
            raise ValueError(f"refam: needs one weight per word, {len(maps)} with a positive sum, got {list(weights)}")
        factors = maps.new_tensor(list(weights))
        heat = (maps * factors[:, None]).sum(0) / factors.sum()
    heat = heat.reshape(*grid)
    if prior is not None:
        heat = heat * prior.to(heat)
    peak = int(heat.argmax())
    rows, columns = grid[-2:]
    frame, cell = divmod(peak, rows * columns)
    row, column = divmod(cell, columns)
    return Heatmap(heat, maps, ((column + 0.5) / columns, (row + 0.5) / rows), frame)


def spatial_prior(words: Sequence[str], grid: tuple[int, int]) -> Float[Tensor, "rows columns"] | None:
    """Where words of place point to: ramps for left, right, top and bottom, a Gaussian for the middle.

    Returns:
        the product of their maps, in (0, 1], (rows, columns); None if there is no such word.
    """
    rows, columns = grid
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    middle = torch.exp(-((y[:, None] - 0.5) ** 2 + (x[None] - 0.5) ** 2) / (2 * 0.25**2))
    priors = {
        "left": (1 - x)[None].expand(rows, columns),
        "right": x[None].expand(rows, columns),
        "top": (1 - y)[:, None].expand(rows, columns),
        "bottom": y[:, None].expand(rows, columns),
        "middle": middle,
    }
    meanings = {"upper": "top", "lower": "bottom", "center": "middle", "centre": "middle", "central": "middle"}
    prior = None
    for word in words:
        place = word.lower()
        place = meanings.get(place, place)
        if place in priors:
            prior = priors[place].clone() if prior is None else prior * priors[place]
    return prior


def heatmap_of(
    layers: Sequence[tuple[str, CrossMap]],
    tokens: TextTokens,
    grid: Sequence[int],
    *,
    cleaner: Cleaner = Cleaner(),
) -> tuple[Heatmap, Accumulated]:
    """The heat map of one prompt from the text columns of its layers, (1, …) each."""
    accumulated = Accumulated(tokens, cleaner)
    for name, layer in layers:
        accumulated.add(name, layer.cross[0], layer.load[0])
    return heatmap(accumulated.cross, tokens, grid), accumulated


def sink_table(accumulated: Accumulated) -> Bool[Tensor, "layers text"]:
    """Which tokens are sinks of which layer, in the order of the layers."""
    return torch.stack(list(accumulated.sinks.values()))
