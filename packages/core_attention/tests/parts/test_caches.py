"""One protocol for everything that remembers: every layer of the registry that has `new_cache` decodes, saves, reorders, resets and crops alike."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from core_attention.mechanisms.deconstructing.attention import DeconstructedAttention
from core_attention.mechanisms.dma.layer import DynamicMaskAttention
from core_attention.mechanisms.landmark.layer import LandmarkAttention
from core_attention.mechanisms.moh.llama import MoHLlamaAttention
from core_attention.mechanisms.mvpformer.mvpa import MVPFormerGQAAttention
from core_attention.mechanisms.titans.layers import titans_layer
from core_attention.mechanisms.vmoba.moba import MoBA
from core_attention.parts.cache import Cache
from core_attention.registry.catalogue import declared

WIDTH, LENGTH = 16, 23
CASES = {
    "dma": (lambda: DynamicMaskAttention(WIDTH, 4, num_kv_heads=2, window=6), {}),
    "dma, all kept": (lambda: DynamicMaskAttention(WIDTH, 4, num_kv_heads=2, window=64), {}),
    "landmark": (lambda: LandmarkAttention(WIDTH, 4, num_kv_heads=2, block=4), {"top_k": 9}),
    "moba": (lambda: MoBA(block=4, topk=2), {}),
    "moh-llama": (lambda: MoHLlamaAttention(WIDTH, 4, num_kv_heads=2), {}),
    "mvpa": (lambda: MVPFormerGQAAttention(WIDTH, num_heads=4, num_kv_heads=2, relative_index="distance"), {}),
    "standard": (lambda: DeconstructedAttention(WIDTH, num_heads=4), {}),
    "deconstructing-approx": (lambda: DeconstructedAttention(WIDTH, num_heads=4, kind="approx"), {}),
    "deconstructing-nonapprox": (lambda: DeconstructedAttention(WIDTH, num_heads=4, kind="nonapprox"), {}),
    "titans-lmm": (lambda: titans_layer("lmm", WIDTH, window=5, gates="chunk", conv_kernel=3), {}),
    "titans-mac": (lambda: titans_layer("mac", WIDTH, window=5, num_heads=2), {}),
    "titans-mag": (lambda: titans_layer("mag", WIDTH, window=5, num_heads=2, memory_heads=2), {}),
    "titans-mal": (lambda: titans_layer("mal", WIDTH, window=5, num_heads=2), {}),
}
# what a mechanism sums up or drops cannot be taken back
SUMMED = {
    "dma",
    "deconstructing-approx",
    "deconstructing-nonapprox",
    "titans-lmm",
    "titans-mac",
    "titans-mag",
    "titans-mal",
}


class Stream:
    """A layer in float64 and tokens for it, whatever its inputs look like."""

    def __init__(self, case: str) -> None:
        make, self.options = CASES[case]
        torch.manual_seed(0)
        self.layer = make().double().eval()
        for parameter in self.layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        torch.manual_seed(1)
        self.case, self.x = case, torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
        self.tables = torch.randn(LENGTH, WIDTH, dtype=torch.float64)

    def cache(self) -> Cache:
        return self.layer.new_cache(**self.options)

    def run(self, part: slice, cache: Cache | None, x: Tensor | None = None) -> Tensor:
        tokens = (self.x if x is None else x)[:, part]
        if self.case == "moba":
            heads = tokens.unflatten(-1, (2, -1)).transpose(1, 2)
            return self.layer(heads, heads * 0.5, heads + 1, cache=cache).transpose(1, 2).flatten(2)
        if self.case == "mvpa":
            y = self.layer(tokens[:, :, None].expand(-1, -1, 2, -1), self.tables, self.tables[:2], cache=cache)
            return y.flatten(2)
        y = self.layer(tokens, cache=cache)
        return y[0] if isinstance(y, tuple) else y

    def read(self, cache: Cache, lengths: list[int]) -> Tensor:
        """The next tokens in pieces."""
        parts, begin = [], 0
        for n in lengths:
            parts.append(self.run(slice(begin, begin + n), cache))
            begin += n
        return torch.cat(parts, 1)


@pytest.fixture(params=CASES)
def stream(request):
    return Stream(request.param)


def test_every_layer_with_a_cache_is_here():
    """A mechanism that declares an example with a cache is held to this page."""
    with_cache = {name for name, place in declared("examples").items() if hasattr(place.load()(25).module, "new_cache")}
    assert with_cache <= set(CASES)


@pytest.mark.parametrize("lengths", [[1] * LENGTH, [7, 1, 1, 1, 5, 1, 1, 6], [22, 1]])
@torch.no_grad()
def test_pieces_equal_the_whole(stream, lengths):
    torch.testing.assert_close(stream.read(stream.cache(), lengths), stream.run(slice(None), None))


@torch.no_grad()
def test_a_saved_cache_goes_on_and_shares_no_memory(stream):
    cache, other = stream.cache(), stream.cache()
    for part in (slice(0, 9), slice(9, 10), slice(10, 11)):
        stream.run(part, cache)
    state = cache.state_dict()
    saved = save(state)
    expected = stream.run(slice(11, 12), cache)
    assert all(torch.equal(state[name], x) for name, x in load(saved).items()), "decoding wrote into a saved state"
    other.load_state_dict(load(saved))
    torch.testing.assert_close(stream.run(slice(11, 12), other), expected)


@torch.no_grad()
def test_beams_are_reordered(stream):
    cache = stream.cache()
    for part in (slice(0, 9), slice(9, 10)):
        stream.run(part, cache)
    beams = torch.tensor([2, 0, 0, 1])
    twin = copy.deepcopy(cache)
    twin.reorder(beams)
    chosen = stream.x[beams]
    expected = torch.cat([stream.run(slice(10, 11), cache), stream.run(slice(11, 12), cache)], 1)
    ours = torch.cat([stream.run(slice(10, 11), twin, chosen), stream.run(slice(11, 12), twin, chosen)], 1)
    torch.testing.assert_close(ours, expected[beams])


@torch.no_grad()
def test_reset_begins_again(stream):
    cache = stream.cache()
    first = stream.read(cache, [9, 1, 1])
    cache.reset()
    torch.testing.assert_close(stream.read(cache, [9, 1, 1]), first)


@torch.no_grad()
def test_drafts_are_taken_back_or_refused(stream):
    cache = stream.cache()
    stream.read(cache, [9, 1, 1, 1])
    if stream.case in SUMMED:
        with pytest.raises(ValueError, match=r"cannot go back to 9.*copy.deepcopy"):
            cache.crop(9)
        return
    cache.crop(9)
    after = torch.cat([stream.run(slice(9, 10), cache), stream.run(slice(10, 15), cache)], 1)
    torch.testing.assert_close(after, stream.run(slice(0, 15), None)[:, 9:])
    with pytest.raises(ValueError, match=r"cropped to 0 … 15, got 16"):
        cache.crop(16)


@pytest.mark.parametrize("case", ["dma", "landmark", "moba", "mvpa"])
def test_a_state_of_another_setting_is_refused(case):
    stream = Stream(case)
    cache = stream.cache()
    with torch.no_grad():
        stream.run(slice(0, 9), cache)
    state = cache.state_dict()
    name = {"dma": "window", "mvpa": "limit"}.get(case, "block")
    state[name] = state[name] + 1
    with pytest.raises(ValueError, match=rf"has {name} {int(state[name])}, this one"):
        stream.cache().load_state_dict(state)
