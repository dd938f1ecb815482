"""The wavelet encoder: equal to PyWavelets, one band layout, no gradient through the transform."""

import warnings

import numpy as np
import pytest
import torch

from ieeg.model.wavelets import WaveEncoder, band_lengths, levels, wavelet_transform


def test_published_lengths():
    assert levels(2560) == 8
    assert band_lengths(2560) == [16, 16, 26, 46, 86, 166, 326, 645, 1283]
    assert sum(band_lengths(2560)) == 2610


@pytest.mark.parametrize("length", [*range(1, 40), 255, 256, 777, 2560, 2999, 3000])
def test_equals_pywavelets(length):
    pywt = pytest.importorskip("pywt")
    x = np.random.default_rng(length).normal(size=(3, length))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short signals
        bands = pywt.wavedec(x, "db4", mode="periodic", level=levels(length))
    expected = np.concatenate(bands, -1)
    ours = wavelet_transform(torch.from_numpy(x))
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-10)


def test_scale_does_not_matter_in_microvolts():
    encoder = WaveEncoder(777, 24)
    x = 50 * torch.randn(2, 3, 777)
    torch.testing.assert_close(encoder(x), encoder(10 * x), rtol=1e-4, atol=1e-4)


def test_no_gradient_through_the_transform_but_through_norm_and_projection():
    encoder = WaveEncoder(128, 8)
    x = torch.randn(4, 128, requires_grad=True)
    encoder(x).square().sum().backward()
    assert x.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="128"):
        WaveEncoder(128, 8)(torch.randn(4, 127))
    with pytest.raises(ValueError, match="at least one"):
        wavelet_transform(torch.randn(4, 0))
