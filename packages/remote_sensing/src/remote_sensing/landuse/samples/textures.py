"""Synthetic land use: covers with approximate spectra laid out as fields, roads, roofs, rivers and woods, ten kinds after EuroSAT's classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from remote_sensing.landuse.scenes.bands import FILE_ORDER
from remote_sensing.landuse.scenes.classes import CLASSES

# Reflectance × 10,000 in the order B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A: approximate spectra of vegetation, soil, stone and water.
_SPECTRA = {
    "water": (1300, 1050, 850, 550, 450, 350, 300, 260, 120, 12, 150, 100, 230),
    "shallow": (1350, 1150, 1050, 800, 700, 600, 560, 500, 220, 12, 350, 250, 480),
    "wood": (1180, 850, 720, 450, 700, 1750, 2200, 2200, 700, 11, 1050, 480, 2450),
    "grass": (1220, 950, 1000, 720, 1200, 2700, 3200, 3300, 900, 12, 2000, 1050, 3600),
    "shrub": (1220, 930, 880, 740, 1050, 1900, 2250, 2250, 750, 12, 1900, 1000, 2500),
    "crop": (1230, 980, 1020, 820, 1350, 2700, 3150, 3150, 850, 12, 2200, 1200, 3450),
    "stubble": (1300, 1180, 1280, 1420, 1800, 2300, 2550, 2550, 800, 13, 3000, 2100, 2850),
    "soil": (1280, 1120, 1120, 1250, 1450, 1650, 1800, 1800, 600, 13, 2550, 2000, 2000),
    "asphalt": (1380, 1250, 1220, 1200, 1300, 1450, 1550, 1550, 600, 13, 1700, 1450, 1650),
    "roof": (1750, 1900, 2050, 2200, 2350, 2450, 2550, 2600, 900, 15, 2700, 2400, 2700),
    "tiles": (1350, 1230, 1250, 1550, 1750, 1900, 2000, 2000, 700, 13, 2300, 1950, 2150),
}
COVERS = {name: i for i, name in enumerate(_SPECTRA)}
SPECTRA: NDArray[np.float32] = np.array(list(_SPECTRA.values()), np.float32)
assert SPECTRA.shape[1] == len(FILE_ORDER)

Random = np.random.Generator
_Cover = NDArray[np.int64]


def draw(name: str, size: int, rng: Random) -> NDArray[np.uint16]:
    """Reflectances (13, size, size) of one kind of land use.

    Args:
        name: one of EuroSAT's classes.
        size: pixels of 10 m.
        rng: source of all randomness.
    """
    cover = _DRAWN[name](size, rng)
    # spectra differ from tile to tile, as seasons and soils do
    spectra = SPECTRA * rng.normal(1, 0.08, (len(SPECTRA), 1)) * rng.normal(1, 0.03, SPECTRA.shape)
    image = spectra[cover].transpose(2, 0, 1)
    image = image * (1 + 0.05 * _smooth(size, 6, rng) + 0.05 * rng.normal(0, 1, (size, size)))
    # the optics' blur: half of a pixel's light comes from its four neighbours
    neighbours = sum(np.roll(image, shift, axis) for axis in (1, 2) for shift in (-1, 1))
    image = 0.5 * image + 0.125 * neighbours
    # haze: a gain of the whole tile, and an offset that is relatively greatest in the dark bands
    gain = rng.normal(1, 0.12) * np.ones((13, 1, 1))
    haze = gain + rng.normal(0, 80) / np.maximum(SPECTRA.mean(0), 100)[:, None, None]
    return np.clip(np.rint(image * haze), 1, 12_000).astype(np.uint16)


def _smooth(size: int, grain: float, rng: Random) -> NDArray[np.float64]:
    """Noise of mean 0 and deviation 1 whose spots are about `grain` pixels wide."""
    # white noise through a Gaussian low pass, in the spectrum: without seams at the edges
    frequency = np.fft.fftfreq(size)
    damp = np.exp(-0.5 * ((frequency[:, None] ** 2 + frequency**2) * (2 * np.pi * grain / 2.4) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(0, 1, (size, size))) * damp).real
    return field / max(field.std(), 1e-9)


def _axes(size: int, angle: float) -> tuple[NDArray, NDArray]:
    """Coordinates along and across a direction (radians)."""
    y, x = np.mgrid[:size, :size]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _fields(size: int, rng: Random, kinds: tuple[str, ...], grain: float) -> _Cover:
    """Rectangular fields, one cover each."""
    u, v = _axes(size, rng.uniform(0, np.pi))
    long, short = grain * rng.uniform(1.2, 2.0), grain * rng.uniform(0.7, 1.1)
    row = np.floor(v / short + rng.uniform(0, 9)).astype(int)
    # a number for each field, the rows staggered; multiples of primes, so that neighbours get unrelated covers
    number = np.floor(u / long + 0.37 * row).astype(int) * 7919 + row * 104_729
    choice = rng.integers(0, len(kinds), 512)
    return np.array([COVERS[kind] for kind in kinds])[choice[number % 512]]


def _annual(size: int, rng: Random) -> _Cover:
    return _fields(size, rng, ("crop", "stubble", "soil", "crop", "stubble"), 26)


def _wood(size: int, rng: Random) -> _Cover:
    return np.where(_smooth(size, 8, rng) > 2.2, COVERS["shrub"], COVERS["wood"])


def _herbs(size: int, rng: Random) -> _Cover:
    is_shrub = _smooth(size, 5, rng) > 0.3
    ground = np.where(_smooth(size, 9, rng) > 0.8, COVERS["soil"], COVERS["grass"])
    return np.where(is_shrub, COVERS["shrub"], ground)


def _pasture(size: int, rng: Random) -> _Cover:
    cover = _fields(size, rng, ("grass", "grass", "crop"), 34)
    u, v = _axes(size, rng.uniform(0, np.pi))
    hedge = (np.abs((v + 4 * np.sin(u / 19)) % rng.uniform(28, 44) - 6) < 1.1) & (_smooth(size, 6, rng) > -0.6)
    return np.where(hedge, COVERS["wood"], cover)


def _permanent(size: int, rng: Random) -> _Cover:
    u, _ = _axes(size, rng.uniform(0, np.pi))
    rows = (u % rng.uniform(3.5, 5.5)) < 2.2
    plots = _fields(size, rng, ("soil", "shrub", "stubble"), 30)
    planted = rows & (plots != COVERS["stubble"])
    between = np.where(plots == COVERS["shrub"], COVERS["soil"], plots)
    return np.where(planted, COVERS["shrub"], between)


def _highway(size: int, rng: Random) -> _Cover:
    cover = _fields(size, rng, ("crop", "grass", "stubble", "wood"), 24)
    u, v = _axes(size, rng.uniform(0, np.pi))
    bend = rng.uniform(-1, 1) * 6 * np.sin(u / rng.uniform(25, 60))
    centre = v.mean() + rng.uniform(-8, 8)
    # repeated, so that a large scene has several
    period = max(size, 96)
    across = np.abs((v - centre + bend + period / 2) % period - period / 2)
    verge = np.where(across < 3.4, COVERS["grass"], cover)
    return np.where(across < rng.uniform(1.6, 2.6), COVERS["asphalt"], verge)


def _blocks(
    size: int, rng: Random, step: float, fill: tuple[float, float], roof: str, between: str, street: str
) -> _Cover:
    """Roofs in a grid of streets."""
    u, v = _axes(size, rng.uniform(0, np.pi / 2))
    number = np.floor(u / step).astype(int) * 7919 + np.floor(v / step).astype(int) * 104_729
    # width and depth of each roof, as shares of the step
    wide, deep = rng.uniform(*fill, 512)[number % 512], rng.uniform(*fill, 512)[(number // 3) % 512]
    cover = np.where((u % step < wide * step) & (v % step < deep * step), COVERS[roof], COVERS[between])
    street_step = 4 * step
    return np.where((u % street_step < 1.6) | (v % street_step < 1.6), COVERS[street], cover)


def _industrial(size: int, rng: Random) -> _Cover:
    return _blocks(size, rng, rng.uniform(15, 22), (0.4, 0.9), "roof", "asphalt", "asphalt")


def _residential(size: int, rng: Random) -> _Cover:
    cover = _blocks(size, rng, rng.uniform(4, 5.5), (0.35, 0.75), "tiles", "grass", "asphalt")
    return np.where((cover == COVERS["grass"]) & (_smooth(size, 3, rng) > 0.9), COVERS["wood"], cover)


def _river(size: int, rng: Random) -> _Cover:
    cover = _fields(size, rng, ("grass", "crop", "wood"), 26)
    u, v = _axes(size, rng.uniform(0, np.pi))
    meander = rng.uniform(-6, 6) + rng.uniform(5, 12) * np.sin(u / rng.uniform(14, 26) + rng.uniform(0, 6))
    across = v - v.mean() + meander
    period = max(size, 110)
    across = np.abs((across + period / 2) % period - period / 2)
    width = rng.uniform(4, 8)
    bank = np.where(across < width + 3, COVERS["wood"], cover)
    return np.where(across < width, COVERS["shallow"], bank)


def _sea(size: int, rng: Random) -> _Cover:
    return np.where(_smooth(size, 20, rng) > 2.0, COVERS["shallow"], COVERS["water"])


_DRAWN: dict[str, Callable[[int, Random], _Cover]] = {
    "AnnualCrop": _annual,
    "Forest": _wood,
    "HerbaceousVegetation": _herbs,
    "Highway": _highway,
    "Industrial": _industrial,
    "Pasture": _pasture,
    "PermanentCrop": _permanent,
    "Residential": _residential,
    "River": _river,
    "SeaLake": _sea,
}
assert tuple(_DRAWN) == CLASSES
