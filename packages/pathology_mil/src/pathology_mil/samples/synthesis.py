"""Synthetic H&E: a picture of tissue with or without tumour-like nests, and where the nests are.

Not a model of histology: it has what a slide pipeline must cope with (fibrous stroma, nuclei, fat, lymphoid clusters that are dark
without being tumour, stain that varies from slide to slide, pen marks), and its truth is known.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_mil.slides.reading import RGB

MPP = 0.5  # µm per pixel of everything drawn here
WIDTH, HEIGHT = 1792, 1408  # small enough for a demo in seconds, large enough for fifty to a hundred tiles
# optical density of the two stains in red, green, blue
HAEMATOXYLIN = np.array([0.650, 0.704, 0.286], np.float32)
EOSIN = np.array([0.190, 0.880, 0.435], np.float32)
PENS = {"blue": (30, 60, 170), "green": (20, 130, 60), "black": (25, 25, 30)}

Outline = NDArray[np.int32]  # (points, 2)


@dataclass(frozen=True)
class Nest:
    """A tumour-like nest: its outline and, if it has one, the hole inside (lumen or necrosis), which is not tumour."""

    outline: Outline
    hole: Outline | None


@dataclass(frozen=True)
class Drawing:
    image: RGB
    nests: list[Nest]
    pen: str | None


def draw(rng: np.random.Generator, *, tumour: bool, pen: bool) -> Drawing:
    """Draws one slide.

    Args:
        rng: source of all randomness.
        tumour: whether it has nests.
        pen: whether there are pen marks on the glass.
    """
    tissue = _tissue(rng)
    nests = []
    if tumour:
        nests = _nests(rng, tissue)
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    for nest in nests:
        cv2.fillPoly(inside, [nest.outline], 255)
        if nest.hole is not None:
            cv2.fillPoly(inside, [nest.hole], 0)

    # Densities of the two stains, drawn layer by layer: stroma, nests, lumina, fat, nuclei.
    fibres = _crop(_fibres(), rng)
    eosin = 0.17 + 0.15 * fibres + 0.035 * _smooth_noise(rng, 5)
    haematoxylin = 0.06 + 0.03 * fibres
    soft = cv2.GaussianBlur(inside, (0, 0), 4).astype(np.float32) / 255  # nests fade into the stroma
    eosin -= 0.10 * soft
    haematoxylin += 0.13 * soft
    for nest in nests:
        if nest.hole is not None:
            eosin[_filled(nest.hole)] *= 0.35
    fat = _fat(rng, tissue & ~_grown(inside, 32))
    tissue &= ~fat

    nuclei = np.zeros((HEIGHT, WIDTH), np.uint8)
    stroma = tissue & (inside == 0)
    _stamp(rng, nuclei, stroma, per_mm2=1500, radii=(3.5, 7.5), flat=0.45, dark=(120, 190))
    # lymphoid clusters: as dark as tumour, but small, round, even nuclei; what a classifier by darkness alone falls for
    for centre in _points(rng, stroma & ~_grown(inside, 96), int(rng.integers(1, 4))):
        cluster = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(cluster, [_blob(rng, centre, rng.uniform(60, 110))], 1)
        _stamp(rng, nuclei, stroma & (cluster > 0), per_mm2=9000, radii=(4.5, 5.5), flat=0.95, dark=(190, 240))
    _stamp(rng, nuclei, tissue & (inside > 0), per_mm2=8500, radii=(6.5, 11), flat=0.75, dark=(150, 250))
    chromatin = 0.75 + 0.25 * _crop(_grain(), rng)
    haematoxylin += cv2.GaussianBlur(nuclei, (0, 0), 0.9).astype(np.float32) / 255 * chromatin * 0.85

    image = _beer_lambert(rng, haematoxylin, eosin, tissue)
    ink = None
    if pen:
        ink = str(rng.choice(list(PENS)))
        _ink(rng, image, PENS[ink])
    return Drawing(image, nests, ink)


def _beer_lambert(rng: np.random.Generator, haematoxylin: NDArray, eosin: NDArray, tissue: NDArray) -> RGB:
    """Light through two stains, I = I₀ · 10^(−density); the amount of stain and the lamp differ from slide to slide."""
    amount = rng.uniform(0.85, 1.2, 2).tolist()
    thickness = cv2.GaussianBlur(tissue.astype(np.float32), (0, 0), 1.5) * (1 + 0.12 * _smooth_noise(rng, 8))
    lamp = (rng.uniform(238, 246) + rng.uniform(-2, 2, 3)).tolist()
    grain = (_crop(_grain(), rng) - 0.5) * 5
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for c in range(3):
        density = haematoxylin * (amount[0] * HAEMATOXYLIN[c]) + eosin * (amount[1] * EOSIN[c])
        # 2.3 = ln 10: from decadic density to the exponent of e
        image[..., c] = np.clip(cv2.exp(-2.3 * density * thickness) * lamp[c] + grain, 0, 255)
    return image


def _tissue(rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    pieces = int(rng.integers(1, 3))
    for i in range(pieces):
        centre = (WIDTH * (i + 0.5) / pieces + rng.uniform(-50, 50), HEIGHT / 2 + rng.uniform(-80, 80))
        low, high = (370, 430) if pieces == 2 else (520, 600)
        cv2.fillPoly(mask, [_blob(rng, centre, rng.uniform(low, high))], 255)
    # a blurred edge plus noise, cut at a half: ragged, as tissue is
    ragged = cv2.GaussianBlur(mask, (0, 0), 14).astype(np.float32) / 255 + 0.11 * _smooth_noise(rng, 42)
    mask = (ragged > 0.5).astype(np.uint8)
    for _ in range(int(rng.integers(1, 4))):  # tears
        walk = np.cumsum(rng.normal(0, 30, (14, 2)) + rng.normal(0, 20, 2), axis=0) + rng.uniform(300, 1100, 2)
        cv2.polylines(mask, [walk.astype(np.int32)], False, 0, int(rng.integers(6, 16)))
    return mask > 0


def _nests(rng: np.random.Generator, tissue: NDArray[np.bool_]) -> list[Nest]:
    # Centres lie at least 80 pixels inside the tissue. Padded, since tissue at the picture's edge ends there, too.
    room = cv2.erode(np.pad(tissue.astype(np.uint8), 1), np.ones((3, 3), np.uint8), iterations=80)[1:-1, 1:-1] > 0
    nests = []
    for _ in range(int(rng.integers(2, 6))):
        if not room.any():
            break
        centre = _points(rng, room, 1)[0]
        radius = rng.uniform(80, 170)
        hole = None
        if radius > 145 and rng.random() < 0.7:
            hole = _blob(rng, centre, radius * 0.38)
        nests.append(Nest(_blob(rng, centre, radius), hole))
        # no second nest within reach of this one
        free = np.ones((HEIGHT, WIDTH), np.uint8)
        cv2.circle(free, (int(centre[0]), int(centre[1])), int(radius * 2 + 40), 0, -1)
        room &= free > 0
    return nests


def _blob(rng: np.random.Generator, centre, radius: float) -> Outline:
    """A round outline with a few waves."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    wave = np.ones_like(angle)
    for k in range(2, 7):
        wave += rng.uniform(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (wave * radius)[:, None] + np.asarray(centre)
    return np.rint(points).astype(np.int32).clip(0, [WIDTH - 1, HEIGHT - 1])


def _points(rng: np.random.Generator, mask: NDArray, n: int) -> NDArray[np.int64]:
    """n random (x, y) inside a mask; fewer where the mask is small."""
    if not mask.any():
        return np.zeros((0, 2), np.int64)
    # Drawn all over the picture, those outside the mask dropped: enough tries that n remain, as a rule.
    share = max(mask.mean(), 1e-3)
    tries = rng.integers(0, [WIDTH, HEIGHT], (int(n / share * 1.5) + 200, 2))
    points = tries[mask[tries[:, 1], tries[:, 0]]][:n]
    if not len(points):
        points = np.argwhere(mask)[:1, ::-1]
    return points


def _stamp(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    where: NDArray[np.bool_],
    *,
    per_mm2: float,
    radii: tuple[float, float],
    flat: float,
    dark: tuple[int, int],
) -> None:
    """Draws nuclei as filled ellipses.

    Args:
        per_mm2: number of nuclei per mm².
        radii: range of the longer half axis, pixels.
        flat: smallest ratio of the axes.
        dark: range of grey values.
    """
    n = int(per_mm2 * np.count_nonzero(where) * (MPP / 1000) ** 2)
    points = _points(rng, where, n)
    long = rng.uniform(*radii, len(points))
    axes = np.stack([long, long * rng.uniform(flat, 1, len(points))], axis=1)
    turn, grey = rng.uniform(0, 180, len(points)), rng.integers(*dark, len(points))
    nuclei = zip(points.tolist(), axes.tolist(), turn.tolist(), grey.tolist(), strict=True)
    for (x, y), (a, b), angle, value in nuclei:
        cv2.ellipse(canvas, ((x, y), (2 * a, 2 * b), angle), value, -1)


def _fat(rng: np.random.Generator, room: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Round empty cells in groups."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for centre in _points(rng, room, int(rng.integers(1, 4))):
        for offset in rng.normal(0, 90, (int(rng.integers(8, 26)), 2)):
            x, y = np.rint(centre + offset).astype(int).tolist()
            cv2.circle(mask, (x, y), int(rng.integers(16, 34)), 255, -1)
            cv2.circle(mask, (x, y), 36, 0, 3)
    return (mask > 0) & room


def _ink(rng: np.random.Generator, image: RGB, colour: tuple[int, int, int]) -> None:
    x = WIDTH * 0.96
    if rng.integers(0, 2) == 0:
        x = WIDTH * 0.04
    start = np.array([x, rng.uniform(0.1, 0.4) * HEIGHT])
    walk = start + np.cumsum(np.stack([rng.normal(0, 16, 16), rng.uniform(22, 55, 16)], axis=1), axis=0)
    mark = np.zeros(image.shape[:2], np.uint8)
    cv2.polylines(mark, [walk.astype(np.int32)], False, 255, int(rng.integers(24, 40)), cv2.LINE_AA)
    cover = cv2.GaussianBlur(mark, (0, 0), 2)[..., None].astype(np.float32) / 255 * 0.9
    # only the box around the mark is blended: in floats, a whole picture takes longer than all the rest
    rows, columns = np.flatnonzero(mark.any(axis=1)), np.flatnonzero(mark.any(axis=0))
    box = np.s_[max(0, rows[0] - 8) : rows[-1] + 8, max(0, columns[0] - 8) : columns[-1] + 8]
    image[box] = image[box] * (1 - cover[box]) + np.array(colour, np.float32) * cover[box]


def _filled(outline: Outline) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [outline], 1)
    return mask > 0


def _grown(mask: NDArray, pixels: int) -> NDArray[np.bool_]:
    small = cv2.resize(mask, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA)
    side = 2 * (pixels // 8) + 1
    grown = cv2.dilate((small > 0).astype(np.uint8), np.ones((side, side), np.uint8))
    return cv2.resize(grown, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST) > 0


def _smooth_noise(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Noise of roughly unit size that changes over 1/cells of the width."""
    small = rng.standard_normal((max(3, cells * HEIGHT // WIDTH), cells)).astype(np.float32)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)


@cache
def _fibres() -> NDArray[np.float32]:
    """A large field of wavy fibres in [0, 1], computed once and cropped for every slide."""
    rng = np.random.default_rng(1)
    height, width = HEIGHT + 512, WIDTH + 512
    # straight streaks, then bent: each pixel is looked up up to some 90 pixels away, along a smooth field
    noise = cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), sigmaX=22, sigmaY=1.3)
    shifts = []
    for _ in "xy":
        coarse = rng.standard_normal((9, 11)).astype(np.float32)
        shifts.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = cv2.remap(noise, xs + 90 * shifts[0], ys + 90 * shifts[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    low, high = np.percentile(waves[::8, ::8], [2, 98])
    return np.clip((waves - low) / (high - low), 0, 1).astype(np.float32)


@cache
def _grain() -> NDArray[np.float32]:
    return np.random.default_rng(2).random((HEIGHT + 512, WIDTH + 512), np.float32)


def _crop(field: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = rng.integers(0, 512, 2)
    crop = field[y : y + HEIGHT, x : x + WIDTH]
    return crop[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
