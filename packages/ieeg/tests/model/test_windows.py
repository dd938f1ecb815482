"""A moving window is the full pass on every window; what is said of a recording does not depend on how it was cut into blocks."""

import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from ieeg.model.inference import attention, probabilities
from ieeg.model.mvpformer import build
from ieeg.model.windows import SlidingWindow

SMALL = {
    "segment": 64,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "inner": 48,
    "positions": 16,
    "channels": 12,
}


class InMemory:
    def __init__(self, count=20, channels=3, samples=64):
        self.data = np.random.default_rng(0).standard_normal((count, channels, samples)).astype(np.float32)
        self.names = [f"A{i + 1}" for i in range(channels)]

    @property
    def segment_count(self):
        return len(self.data)

    def segments(self, first, last):
        return self.data[first:last]


def small(**changes):
    torch.manual_seed(0)
    model = build("s", **{**SMALL, "classes": 2, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.mark.parametrize("blocks", [[20], [1] * 20, [7, 1, 12]])
def test_streaming_equals_the_full_pass_on_each_window(blocks):
    model, signals = small(), InMemory()
    sliding = SlidingWindow(model, 6)
    parts = torch.from_numpy(signals.data).split(blocks)
    found = torch.cat([sliding.push(part) for part in parts])
    padded = torch.cat([torch.from_numpy(signals.data)[:1].expand(5, -1, -1), torch.from_numpy(signals.data)])
    with torch.no_grad():
        full = torch.stack([model(padded[i : i + 6][None])[0] for i in range(20)])
    torch.testing.assert_close(found.mean(1), full, rtol=1e-4, atol=1e-5)
    assert sliding.seen == 20
    sliding.reset()
    torch.testing.assert_close(sliding.push(parts[0])[0], found[0], rtol=1e-4, atol=1e-5)


def test_each_segment_is_encoded_once(monkeypatch):
    model, signals, counted = small(), InMemory(), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x: counted.append(len(x)) or encode(x))
    list(probabilities(model, signals, window=6, block=7))
    assert sum(counted) == 20


def test_probabilities_do_not_depend_on_blocks_or_on_where_one_begins():
    model, signals = small(), InMemory()
    every = list(probabilities(model, signals, window=6))
    assert [s.index for s in every] == list(range(20))
    small_blocks = list(probabilities(model, signals, window=6, block=3))
    later = list(probabilities(model, signals, window=6, first=9, last=15))
    for a, b in [*zip(every, small_blocks, strict=True), *zip(every[9:15], later, strict=True)]:
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
        np.testing.assert_allclose(a.channels, b.channels, rtol=1e-3, atol=1e-5)
        assert 1 / (1 + np.exp(-a.channels.mean())) == pytest.approx(a.probability, abs=1e-5)


def test_attention_of_a_segment_is_the_dense_one():
    model, signals = small(layers=1), InMemory()
    found = attention(model, signals, 8, window=6)
    assert found.grid.shape == (6, 3)
    assert found.pairs.shape == (3, 3)
    np.testing.assert_allclose(found.pairs.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.time.sum(), 1, rtol=1e-5)
    block = model.decoder.blocks[0]
    tokens = model.encode(torch.from_numpy(signals.data[3:9])[None])
    tables = model.decoder.positional_embedding.weight, model.decoder.channel_embedding.weight
    weights = block.attn.weights(block.ln_1(tokens), *tables)[0].mean(0)[-3:]
    np.testing.assert_allclose(found.grid, weights.mean(0).view(6, 3).detach(), rtol=1e-4, atol=1e-6)
    assert attention(model, signals, 2, window=6).grid.shape == (6, 3)


def test_what_does_not_fit():
    with pytest.raises(UserError, match="no seizure head"):
        list(probabilities(small(classes=0), InMemory(), window=6))
    with pytest.raises(UserError, match="13 channels"):
        list(probabilities(small(), InMemory(channels=13), window=6))
    with pytest.raises(UserError, match="65 samples"):
        list(probabilities(small(), InMemory(samples=65), window=6))
    with pytest.raises(UserError, match="shorter than one segment"):
        list(probabilities(small(), InMemory(count=0), window=6))
    with pytest.raises(ValueError, match="1 to 16 segments"):
        SlidingWindow(small(), 17)
    sliding = SlidingWindow(small(), 4)
    sliding.push(torch.randn(2, 3, 64))
    with pytest.raises(ValueError, match="3 channels"):
        sliding.push(torch.randn(2, 4, 64))
