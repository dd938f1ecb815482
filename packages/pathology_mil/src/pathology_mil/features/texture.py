"""The `colour-texture` encoder: stain and texture statistics of a tile, computed, not learned.

A baseline that needs no weights, so that samples and demos run anywhere. It measures how much of which stain there is, how coarse and how
directed the texture is, and how many dark round objects of which size there are: enough for the synthetic slides, and far from what a network
trained on histology sees. Deterministic.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_mil.slides.reading import RGB

# Rows: haematoxylin, eosin, residual, as optical densities in red, green, blue (Ruifrok and Johnston 2001)
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], np.float32)
_UNMIX = np.linalg.inv(_STAINS).astype(np.float32)
# Optical density of each 8-bit value: -log10(I / I₀), in which stains add up (Beer-Lambert). The +1 keeps 0 finite.
_DENSITY = (-np.log10((np.arange(256, dtype=np.float32) + 1) / 256)).astype(np.float32)
_QUANTILES = (0.1, 0.5, 0.9)
_DARK = np.array([0.15, 0.3, 0.45], np.float32)
_H_BINS = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6], np.float32)
_E_BINS = np.array([0.05, 0.1, 0.15, 0.2, 0.3], np.float32)
DIM = 64

# Mean and spread of the statistics, half over tiles of synthetic sample slides and half over the real CMU-1-Small-Region.svs (OpenSlide's test data)
# fmt: off
CENTRE = np.array([
    0.175, 0.195, 0.0437, 0.12, 0.358, 0.0915, 0.0908, 0.0164, 0.0829, 0.181, 0.143, 0.0828, 0.0557, 0.131,
    0.246, 0.76, 0.126, 0.599, 0.779, 0.898, 0.279, 0.138, 0.121, 0.263, 0.454, 0.683, 0.431, 0.479, 0.452,
    0.464, 0.188, 0.168, 0.158, 1.06, 1.54, 0.264, 0.269, 0.158, 0.101, 0.688, 0.875, 0.964, 0.137, 0.283,
    0.741, 0.587, 0.71, 0.574, 0.7, 0.521, 0.353, 0.127, 0.251, 0.0458, 0.0649, 0.0417, 0.0491, 0.0671, 0.364,
    0.14, 0.247, 0.132, 0.0808, 0.0352,
], np.float32)
SPREAD = np.array([
    0.128, 0.147, 0.0602, 0.106, 0.302, 0.0626, 0.0684, 0.0678, 0.0668, 0.0976, 0.077, 0.0611, 0.05, 0.0846,
    0.14, 0.122, 0.075, 0.201, 0.14, 0.0986, 0.127, 0.078, 0.118, 0.153, 0.186, 0.688, 0.372, 0.354, 0.307,
    0.484, 0.17, 0.134, 0.12, 0.995, 1.35, 0.177, 0.277, 0.199, 0.132, 0.325, 0.348, 0.381, 0.182, 0.329, 0.127,
    0.186, 0.131, 0.329, 0.39, 0.312, 0.325, 0.144, 0.285, 0.0458, 0.0835, 0.0582, 0.0634, 0.093, 0.33, 0.155,
    0.237, 0.155, 0.0991, 0.0492,
], np.float32)
# fmt: on


def colour_texture(tile: RGB) -> NDArray[np.float32]:
    """Statistics of one (height, width, 3) uint8 tile, (64,) float32, centred and scaled as over the sample slides.

    Mean, spread and quantiles of stains, brightness and saturation (25) · energy of four frequency bands of both stains (8) · gradient and its
    directedness (3) · share above three haematoxylin densities (3) · number and size of dark objects (4) · share of glass (1) · colour means and
    spreads (6) · histograms of both stains (14). Quantiles, shares and histograms use every second pixel of every second row.
    """
    return (_statistics(tile) - CENTRE) / SPREAD


def _statistics(tile: RGB) -> NDArray[np.float32]:
    stains = cv2.split(cv2.transform(cv2.LUT(tile, _DENSITY), _UNMIX.T))
    hsv = cv2.cvtColor(tile, cv2.COLOR_RGB2HSV)
    brightness = np.ascontiguousarray(hsv[..., 2]) / np.float32(255)
    saturation = np.ascontiguousarray(hsv[..., 1]) / np.float32(255)
    values: list[float] = []
    sorted_channels = []
    for channel in (*stains, brightness, saturation):
        ordered = np.sort(channel[::2, ::2], axis=None)  # sorted once, for quantiles, shares and histograms
        sorted_channels.append(ordered)
        values += _mean_spread(channel)
        for quantile in _QUANTILES:
            values.append(float(ordered[round(quantile * (ordered.size - 1))]))
    haematoxylin, eosin = np.asarray(stains[0], np.float32), np.asarray(stains[1], np.float32)
    values += [*_bands(haematoxylin), *_bands(eosin), *_gradients(haematoxylin)]
    values += [1 - share for share in _below(sorted_channels[0], _DARK)]
    values += _objects(haematoxylin)
    # glass: bright and without colour (OpenCV's V and S, 0 to 255)
    is_glass = (hsv[::2, ::2, 2] > 215) & (hsv[::2, ::2, 1] < 25)
    values.append(float(np.mean(is_glass)))
    mean, spread = cv2.meanStdDev(tile)
    values += (mean.ravel() / 255).tolist()
    values += (spread.ravel() * 4 / 255).tolist()
    # shares below each limit → shares between the limits
    values += np.diff(_below(sorted_channels[0], _H_BINS), prepend=0, append=1).tolist()
    values += np.diff(_below(sorted_channels[1], _E_BINS), prepend=0, append=1).tolist()
    return np.array(values, np.float32)


def _mean_spread(channel: NDArray) -> tuple[float, float]:
    mean, spread = cv2.meanStdDev(channel)
    return float(mean[0, 0]), float(spread[0, 0])


def _below(ordered: NDArray[np.float32], limits: NDArray[np.float32]) -> list[float]:
    """The share of ordered values below each limit."""
    return (np.searchsorted(ordered, limits) / ordered.size).tolist()


def _bands(stain: NDArray[np.float32]) -> list[float]:
    """Root mean square of the difference of successive Gaussian blurs: the energy of each frequency band."""
    energies, fine = [], stain
    for sigma in (1, 2, 4, 8):
        coarse = np.asarray(cv2.GaussianBlur(stain, (0, 0), sigma), np.float32)
        energies.append(10 * float(cv2.norm(fine, coarse, cv2.NORM_L2)) / stain.size**0.5)
        fine = coarse
    return energies


def _gradients(stain: NDArray[np.float32]) -> list[float]:
    """Mean and spread of the gradient, and how far all gradients point one way (0 not at all, 1 fully)."""
    dx = cv2.Sobel(stain, cv2.CV_32F, 1, 0, scale=0.25)
    dy = cv2.Sobel(stain, cv2.CV_32F, 0, 1, scale=0.25)
    mean, spread = _mean_spread(cv2.magnitude(dx, dy))
    # The structure tensor: the difference of its eigenvalues, as a share of their sum.
    xx, yy, xy = float(np.vdot(dx, dx)), float(np.vdot(dy, dy)), float(np.vdot(dx, dy))
    directed = ((xx - yy) ** 2 + 4 * xy**2) ** 0.5 / max(xx + yy, 1e-6)
    return [10 * mean, 10 * spread, directed]


def _objects(stain: NDArray[np.float32]) -> list[float]:
    """Number, mean and 90 % quantile of the size, and covered share of objects denser than their surroundings."""
    # density above 0.35 is nuclear; blurred, so that grain does not count as objects
    dark = (cv2.GaussianBlur(stain, (0, 0), 1) > 0.35).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]  # the first component is the background
    areas = areas[areas >= 6]
    if count < 2 or not len(areas):
        return [0.0, 0.0, 0.0, 0.0]
    return [
        # per 128 × 128 tile; logarithms and divisors bring the numbers to about 0..1
        float(np.log1p(len(areas) * 16384 / stain.size)) / 3,
        float(np.log(areas.mean())) / 5,
        float(np.log(np.percentile(areas, 90))) / 5,
        float(areas.sum()) / stain.size,
    ]
