"""MVPFormer's signal encoder: a maximal-depth Daubechies-4 wavelet transform, RMS-normalised and projected.

Source: Carzaniga et al., "A foundation model with multi-variate parallel attention to generate neuronal activity", 2025, signal encoder.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# The eight taps of the low-pass analysis filter; the high-pass one is its alternating flip.
DB4 = (
    -0.010597401785069032,
    0.0328830116668852,
    0.030841381835560764,
    -0.18703481171909309,
    -0.027983769416859854,
    0.6308807679298589,
    0.7148465705529157,
    0.2303778133088965,
)
TAPS = len(DB4)


def levels(length: int) -> int:
    """The depth of the transform of `length` samples, ``floor(log2(length / 7))``, at least 0."""
    if length < TAPS - 1:
        return 0
    return int(math.log2(length / (TAPS - 1)))


def band_lengths(length: int) -> list[int]:
    """Number of coefficients per band, coarse to fine: ``[cA_J, cD_J, …, cD_1]``; each level leaves ``floor((n + 7) / 2)``."""
    bands = []
    for _ in range(levels(length)):
        length = (length + TAPS - 1) // 2
        bands.append(length)
    return [length, *reversed(bands)]


def wavelet_transform(x: Float[Tensor, "*lead samples"]) -> Float[Tensor, "*lead coefficients"]:
    """The db4 coefficients of each signal, ``[cA_J, cD_J, …, cD_1]`` concatenated, with periodic extension.

    Each level is one strided convolution over all signals at once. Equal to ``pywt.wavedec(x, "db4", mode="periodic")``.

    Raises:
        ValueError: signals without samples.
    """
    if x.shape[-1] == 0:
        raise ValueError(f"signals need at least one sample, got shape {tuple(x.shape)}")
    low = torch.tensor(DB4, dtype=x.dtype, device=x.device)
    # Quadrature mirror: the taps reversed, with alternating signs.
    high = low.flip(0) * torch.tensor([-1.0, 1.0] * (TAPS // 2), dtype=x.dtype, device=x.device)
    filters = torch.stack([low, high]).flip(1)[:, None]  # reversed, since torch correlates and the transform convolves
    approximation, details = x.reshape(-1, 1, x.shape[-1]), []
    for _ in range(levels(x.shape[-1])):
        n = approximation.shape[-1]
        # Coefficient i weighs the samples 2i − 6 … 2i + 1, wrapped around the ends.
        around = torch.arange(2 - TAPS, 2 * ((n + TAPS - 1) // 2), device=x.device) % n
        approximation, detail = F.conv1d(approximation[..., around], filters, stride=2).split(1, 1)
        details.append(detail)
    return torch.cat([approximation, *reversed(details)], -1).reshape(*x.shape[:-1], -1)


class WaveEncoder(nn.Module):
    """``e = W RMSNorm(DWT(x))``: the embedding of one segment of one channel. The transform is computed in float32, without gradient.

    Feed microvolts: nothing else normalises the amplitude, and the mean square of volts falls below the norm's eps.

    Args:
        size_input: samples L per segment; 2560 (5 s at 512 Hz) gives 2610 coefficients.
        size_output: width E of the embedding.
    """

    def __init__(self, size_input: int, size_output: int) -> None:
        super().__init__()
        self.size_input = size_input
        coefficients = sum(band_lengths(size_input))
        self.ln = nn.RMSNorm(coefficients, eps=1e-5)
        self.proj = nn.Linear(coefficients, size_output, bias=False)

    def forward(self, x: Float[Tensor, "*lead samples"]) -> Float[Tensor, "*lead width"]:
        """Encodes segments.

        Raises:
            ValueError: segments of another length.
        """
        if x.shape[-1] != self.size_input:
            raise ValueError(f"this encoder takes segments of {self.size_input} samples, got shape {tuple(x.shape)}")
        # In bf16 the coefficients would lose the small amplitudes beside the large ones.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            coefficients = wavelet_transform(x.float())
        return self.proj(self.ln(coefficients.to(self.proj.weight.dtype)))
