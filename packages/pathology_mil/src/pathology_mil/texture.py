"""The `colour-texture` encoder: stain and texture statistics of a tile, computed, not learned.

A baseline that needs no weights, so that samples and demos run anywhere. It sees how much of which stain there is, how coarse and how
directed the texture is, and how many dark round objects of what size: enough for the synthetic slides, and far from what a network trained on
histology sees. Deterministic.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_mil.slides import RGB

# rows: haematoxylin, eosin, residual, as optical densities in red, green, blue (Ruifrok and Johnston 2001)
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], np.float32)
_UNMIX = np.linalg.inv(_STAINS).astype(np.float32)
_DENSITY = (-np.log10((np.arange(256, dtype=np.float32) + 1) / 256)).astype(np.float32)  # of an 8-bit value
_QUANTILES = (10, 50, 90)
_H_BINS = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6], np.float32)
_E_BINS = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.4], np.float32)
DIM = 64


def colour_texture(tile: RGB) -> NDArray[np.float32]:
    """Statistics of one (height, width, 3) uint8 tile, (64,) float32, each of order one.

    Mean, spread and quantiles of stains, brightness and saturation (25) · energy of four frequency bands of both stains (8) · gradient and its
    directedness (3) · share above three haematoxylin densities (3) · number and size of dark objects (4) · share of glass (1) · colour means and
    spreads (6) · histograms of both stains (14).
    """
    stains = _DENSITY[tile] @ _UNMIX
    hsv = cv2.cvtColor(tile, cv2.COLOR_RGB2HSV)
    channels = [*np.moveaxis(stains, -1, 0), hsv[..., 2] / np.float32(255), hsv[..., 1] / np.float32(255)]
    values: list[float] = []
    for channel in channels:
        values += [channel.mean(), channel.std(), *np.percentile(channel[::2, ::2], _QUANTILES)]
    haematoxylin, eosin = np.ascontiguousarray(stains[..., 0]), np.ascontiguousarray(stains[..., 1])
    for stain in (haematoxylin, eosin):
        values += _bands(stain)
    values += _gradients(haematoxylin)
    values += [(haematoxylin > t).mean() for t in (0.15, 0.3, 0.45)]
    values += _objects(haematoxylin)
    values.append(((hsv[..., 2] > 215) & (hsv[..., 1] < 25)).mean())
    colours = tile.reshape(-1, 3) / np.float32(255)
    values += [*colours.mean(axis=0), *(4 * colours.std(axis=0))]
    for stain, bins in ((haematoxylin, _H_BINS), (eosin, _E_BINS)):
        values += list(
            np.bincount(np.searchsorted(bins, stain.ravel()), minlength=len(bins) + 1)[: len(bins) + 1] / stain.size
        )
    return np.array(values[:DIM], np.float32)


def _bands(stain: NDArray[np.float32]) -> list[float]:
    """Root mean square of what lies between successive Gaussian blurs."""
    energies, fine = [], stain
    for sigma in (1, 2, 4, 8):
        coarse = cv2.GaussianBlur(stain, (0, 0), sigma)
        energies.append(10 * float(np.sqrt(np.mean((fine - coarse) ** 2))))
        fine = coarse
    return energies


def _gradients(stain: NDArray[np.float32]) -> list[float]:
    """Mean and spread of the gradient, and how far all gradients point one way (0 none, 1 all)."""
    dx, dy = (cv2.Sobel(stain, cv2.CV_32F, *axes, scale=0.25) for axes in ((1, 0), (0, 1)))
    length = np.sqrt(dx**2 + dy**2)
    xx, yy, xy = np.mean(dx * dx), np.mean(dy * dy), np.mean(dx * dy)
    directed = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / max(float(xx + yy), 1e-6)
    return [10 * float(length.mean()), 10 * float(length.std()), float(directed)]


def _objects(stain: NDArray[np.float32]) -> list[float]:
    """Number, mean and 90 % quantile of the size, and covered share of objects denser than their surroundings."""
    dark = (cv2.GaussianBlur(stain, (0, 0), 1) > 0.35).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    areas = areas[areas >= 6]
    if count < 2 or not len(areas):
        return [0.0, 0.0, 0.0, 0.0]
    return [
        float(np.log1p(len(areas) * 16384 / stain.size)) / 3,
        float(np.log(areas.mean())) / 5,
        float(np.log(np.percentile(areas, 90))) / 5,
        float(areas.sum()) / stain.size,
    ]
