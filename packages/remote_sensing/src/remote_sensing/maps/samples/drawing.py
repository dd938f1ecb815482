"""Drawn historical sheets: paper, contour lines, railways with sleepers, vineyard hatching, roads, houses and labels, with their true vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from shapely.geometry import LineString, Polygon

INK, BROWN, BLUE, GREEN = (35, 30, 35), (150, 105, 70), (70, 110, 150), (90, 130, 80)


@dataclass(frozen=True)
class Drawn:
    """A sheet (height, width, 3) and what is on it, in pixels."""

    picture: NDArray[np.uint8]
    railways: list[LineString]
    vineyards: list[Polygon]


def draw_sheet(size: int, seed: int = 0) -> Drawn:
    """A square sheet of `size` pixels, the same under a seed."""
    rng = np.random.default_rng(seed)
    height = _smooth(size, size / 5, rng)
    image = Image.new("RGB", (size, size), (238, 228, 205))
    pen = ImageDraw.Draw(image)
    _contours(pen, height, rng)
    _streams(pen, size, rng)
    vineyards = [_vineyard(pen, size, rng) for _ in range(max(1, size // 300))]
    for _ in range(max(2, size // 180)):
        _road(pen, size, rng)
    for _ in range(max(2, size // 120)):
        _village(pen, size, rng)
    railways = [_railway(pen, size, rng) for _ in range(max(1, size // 420) + 1)]
    _labels(pen, size, rng)
    image = image.filter(ImageFilter.GaussianBlur(0.6))
    paper = np.asarray(image, np.float32)
    # old paper: large stains, its fibres, the scanner's noise (in this order: the generator's draws decide the picture)
    stain = 1 + 0.04 * _smooth(size, size / 3, rng)
    stain = stain + 0.03 * _smooth(size, 3, rng)
    stain = stain + 0.03 * rng.normal(size=(size, size))
    return Drawn(np.clip(paper * stain[..., None], 0, 255).astype(np.uint8), railways, vineyards)


def _smooth(size: int, grain: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random field (size, size) of unit deviation whose hills are about `grain` pixels wide: noise under a Gaussian low pass."""
    frequency = np.fft.fftfreq(size)
    damp = np.exp(-0.5 * ((frequency[:, None] ** 2 + frequency**2) * (2 * np.pi * grain / 2.4) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(0, 1, (size, size))) * damp).real
    return field / max(float(field.std()), 1e-9)


def _contours(pen: ImageDraw.ImageDraw, height: NDArray, rng: np.random.Generator) -> None:
    level = np.floor(height * 6)
    # a contour is where the level changes from one pixel to the next
    edge = (level != np.roll(level, 1, 0)) | (level != np.roll(level, 1, 1))
    edge[0], edge[:, 0] = False, False  # np.roll compares them with the opposite side
    y, x = np.nonzero(edge)
    pen.point(list(zip(x.tolist(), y.tolist(), strict=True)), fill=BROWN)


def _curve(size: int, rng: np.random.Generator, bend: float) -> NDArray[np.float64]:
    """A smooth line across the sheet (points, 2)."""
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    t = np.linspace(-0.8, 0.8, 160)[:, None] * size
    phase, period = rng.uniform(0, 6), rng.uniform(0.5, 1.1) * size
    middle = rng.uniform(0.25, 0.75, 2) * size
    return middle + t * along + bend * size * np.sin(t / period * 2 * np.pi + phase) * across


def _polyline(points: NDArray) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _streams(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    for _ in range(max(1, size // 500)):
        pen.line(_polyline(_curve(size, rng, 0.06)), fill=BLUE, width=2)


def _road(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Two thin lines, or one dashed."""
    points = _curve(size, rng, 0.05)
    if rng.random() < 0.5:
        step = np.gradient(points, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], 1) / np.linalg.norm(step, axis=1, keepdims=True)
        for side in (-2.5, 2.5):
            pen.line(_polyline(points + side * normal), fill=INK, width=1)
    else:
        line = LineString(points)
        for s in np.arange(0, line.length, 9):
            pen.line([line.interpolate(s).coords[0], line.interpolate(s + 5).coords[0]], fill=INK, width=1)


def _railway(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> LineString:
    """A thick line crossed by sleepers."""
    line = LineString(_curve(size, rng, 0.04))
    pen.line([(float(x), float(y)) for x, y in line.coords], fill=INK, width=3)
    for s in np.arange(0, line.length, 8.0):
        a, b = np.array(line.interpolate(s).coords[0]), np.array(line.interpolate(s + 0.5).coords[0])
        step = b - a
        if not step.any():
            continue
        normal = np.array([-step[1], step[0]]) / np.linalg.norm(step)
        pen.line(_polyline(np.stack([a - 4.5 * normal, a + 4.5 * normal])), fill=INK, width=1)
    frame = Polygon([(0, 0), (size, 0), (size, size), (0, size)])
    # a line that leaves the sheet and comes back has several parts: the longest is the truth
    inside = line.intersection(frame)
    return max(getattr(inside, "geoms", [inside]), key=lambda g: g.length)


def _vineyard(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> Polygon:
    """A patch of short strokes in rows."""
    middle, n = rng.uniform(0.15, 0.85, 2) * size, int(rng.integers(6, 10))
    radius = rng.uniform(0.06, 0.12) * min(size, 1200) * rng.uniform(0.8, 1.2, n)
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    patch = Polygon(middle + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).convex_hull
    left, top, right, bottom = patch.bounds
    from shapely import contains_xy

    for i, y in enumerate(np.arange(top, bottom, 7)):
        for x in np.arange(left + 3.5 * (i % 2), right, 7):
            if contains_xy(patch, x, y):
                pen.line([(x, y - 3), (x, y + 3)], fill=GREEN, width=1)
                pen.line([(x - 2, y + 3), (x + 2, y + 3)], fill=GREEN, width=1)
    return patch  # pyright: ignore[reportReturnType]


def _village(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    middle = rng.uniform(0.05, 0.95, 2) * size
    for x, y in middle + rng.normal(0, 22, (int(rng.integers(4, 14)), 2)):
        w, h = rng.uniform(3, 9, 2)
        pen.rectangle((x, y, x + w, y + h), fill=INK)


def _labels(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    names = ("Oberdorf", "Riedhof", "Kirchberg", "Neuhaus", "Im Loch", "Seewen", "Muhle", "Wald", "612", "487")
    for _ in range(max(3, size // 90)):
        x, y = rng.uniform(0, 0.92, 2) * size
        pen.text((float(x), float(y)), str(rng.choice(names)), fill=INK)
