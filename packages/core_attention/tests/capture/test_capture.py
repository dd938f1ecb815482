"""Maps out of fused paths: right, only what was asked for, outputs untouched, nothing left behind."""

import sys
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module

from core_attention import attention, capture
from core_attention.capture.recording import active, paused, record
from core_attention.masks import Causal


def inside():
    """Everything a capture might leave behind."""
    found = [F.scaled_dot_product_attention, F.multi_head_attention_forward, torch._native_multi_head_attention]
    found.append(torch._transformer_encoder_layer_fwd)
    found += [len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks), active()]
    if "transformers.modeling_utils" in sys.modules:
        found.append(sys.modules["transformers.modeling_utils"].AttentionInterface.get_interface)
    return found


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before = inside()
    yield
    assert inside() == before


def same(run, model, **options):
    """The maps of a run, which must not change a bit of its output."""
    torch.manual_seed(7)
    plain = run()
    torch.manual_seed(7)
    with capture(model, **options) as maps:
        watched = run()
    pairs = zip(*((out if isinstance(out, tuple) else (out,)) for out in (plain, watched)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))
    return maps


@pytest.fixture
def x():
    return torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 16, "vdim": 16, "bias": False}]
)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("masked", ["", "attn", "padding", "both"])
def test_multihead_attention(x, batch_first, extra, need_weights, grad, masked):
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(16, 4, batch_first=batch_first, **extra).eval()
    masks = {}
    n, b = (7, 3) if batch_first else (3, 7)
    if masked in ("attn", "both"):
        masks["attn_mask"] = torch.ones(n, n, dtype=torch.bool).triu(1)
    if masked in ("padding", "both"):
        masks["key_padding_mask"] = torch.arange(n).expand(b, n) >= n - torch.arange(b)[:, None] % 2
    with torch.set_grad_enabled(grad):
        maps = same(lambda: mha(x, x, x, need_weights=need_weights, **masks), mha)
        want = mha(x, x, x, need_weights=True, average_attn_weights=False, **masks)[1]
    assert list(maps) == ["MultiheadAttention"]
    assert len(maps.all("MultiheadAttention")) == 1
    torch.testing.assert_close(maps["MultiheadAttention"], want.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # nested tensors are a prototype, torch says
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", ["", "src", "padding"])
def test_the_fused_path_of_the_encoder_stays_and_is_seen(x, masked, norm_first, monkeypatch):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    masks = {}
    if masked == "src":
        masks["mask"] = torch.ones(7, 7, dtype=torch.bool).triu(1)
    if masked == "padding":
        masks["src_key_padding_mask"] = torch.arange(7) >= torch.tensor([7, 5, 7])[:, None]
    calls = []
    fused = torch._transformer_encoder_layer_fwd
    with monkeypatch.context() as patched:
        patched.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: calls.append(1) or fused(*a))
        with torch.no_grad():
            maps = same(lambda: encoder(x, **masks), encoder, rows=[0, 2], heads=slice(1, 3))
    assert len(calls) == 4  # both layers, watched or not
    assert list(maps) == ["layers.0.self_attn", "layers.1.self_attn"]
    slow = x
    for layer, seen in zip(encoder.layers, maps.values(), strict=True):
        before = layer.norm1(slow) if norm_first else slow
        options = {"attn_mask": masks.get("mask"), "key_padding_mask": masks.get("src_key_padding_mask")}
        want = layer.self_attn(before, before, before, average_attn_weights=False, **options)[1]
        torch.testing.assert_close(seen, want[:, 1:3][:, :, [0, 2]].detach(), rtol=1e-4, atol=1e-5)
        slow = layer(slow, src_mask=masks.get("mask"), src_key_padding_mask=masks.get("src_key_padding_mask"))


def test_only_what_was_asked_for(x):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0) for _ in range(3)))
    whole = same(lambda: model(x), model)
    assert list(whole) == ["0.self_attn", "1.self_attn", "2.self_attn"]
    for layers in ("1.*", ["1.self_attn"], model[1].self_attn, 1, [1]):
        maps = same(lambda: model(x), model, layers=layers, heads=-1, rows=slice(2, 5))
        assert list(maps) == ["1.self_attn"]
        assert torch.equal(maps["1.self_attn"], whole["1.self_attn"][:, 3:, 2:5])


def test_dropout_and_gradients_stay(x):
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=True).train()
    maps = same(lambda: mha(x, x, x, need_weights=False)[0], mha)
    torch.testing.assert_close(maps["MultiheadAttention"].sum(-1), torch.ones(3, 4, 7))
    assert not maps["MultiheadAttention"].requires_grad
    x.requires_grad_()
    with capture(mha):
        mha(x, x, x, need_weights=False)[0].sum().backward()
    assert x.grad is not None


def test_names_that_modules_hold_by_themselves(x):
    """``from torch.nn.functional import scaled_dot_product_attention`` in another module is seen, too."""
    sys.modules["holder"] = holder = type(sys)("holder")
    holder.sdpa = F.scaled_dot_product_attention
    q = x[:, None]
    try:
        with capture(None) as maps:
            holder.sdpa(q, q, q, is_causal=True)
        assert holder.sdpa is F.scaled_dot_product_attention
    finally:
        del sys.modules["holder"]
    scores = (q @ q.mT / 4).masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(maps["function"], scores.softmax(-1))


@pytest.mark.parametrize("shape", [(7, 16), (4, 7, 16), (2, 4, 7, 16), (2, 3, 4, 7, 16)])
def test_any_leading_dimensions(shape):
    q = torch.randn(shape)
    bias = torch.randn(*shape[:-1], 7)
    with capture(None) as maps:
        F.scaled_dot_product_attention(q, q, q, attn_mask=bias, scale=0.3)
    want = (q @ q.mT * 0.3 + bias).softmax(-1)
    torch.testing.assert_close(maps["function"].reshape(want.shape), want)


def test_the_front_door_records_once_and_rightly(x):
    q, k = x[:, None].expand(-1, 4, -1, -1), x[:, None].expand(-1, 2, -1, -1)
    for backend in ("reference", "sdpa"):
        with capture(None, rows=-1) as maps:
            attention(q, k, k, mask=Causal(-1), backend=backend)
            attention(q, k, k, mask=Causal(), backend=backend)
        assert [m.shape for m in maps.all("function")] == [(3, 4, 1, 7)] * 2
        assert (maps.all("function")[0][..., -1] == 0).all()
        torch.testing.assert_close(maps["function"].sum(-1), torch.ones(3, 4, 1))


class Routed(nn.Module):
    """A mechanism that offers several kinds of maps, as the docstring of `record` says."""

    def forward(self, x):
        b, n, _ = x.shape
        gates = x.sigmoid()
        record("gates", lambda rows, heads: gates[:, None, rows], shape=(b, 1, n, 16), device=x.device)
        blocks = torch.arange(n // 2).expand(b, 4, -1)[..., None]
        record(
            "blocks",
            lambda rows, heads: blocks[:, heads][:, :, rows],
            shape=(b, 4, n // 2, 1),
            device=x.device,
            row_block=2,
        )
        record("weights", lambda rows, heads: torch.ones(b, len(heads), len(rows), n), shape=(b, 4, n, n))
        with paused():
            return attention(x[:, None], x[:, None], x[:, None])[:, 0] * gates


def test_our_mechanisms_offer_what_they_have(x):
    model = Routed()
    maps = same(lambda: model(x[:, :6]), model, rows=[0, 1, 4], heads=[3])
    assert maps.kinds("Routed") == ("gates", "blocks", "weights")
    assert maps["Routed"].shape == (3, 1, 3, 6)
    torch.testing.assert_close(maps.all("Routed", "gates")[0][:, 0], x[:, [0, 1, 4]].sigmoid())
    assert maps.all("Routed", "blocks")[0].flatten().tolist() == [0, 2] * 3
    only = same(lambda: model(x[:, :6]), model, kinds="gates")
    assert only.kinds("Routed") == ("gates",)
    with pytest.raises(KeyError, match="recorded gates, not 'weights'"):
        only["Routed"]


def test_without_a_capture_record_costs_next_to_nothing():
    assert not active()
    start = time.perf_counter()
    for _ in range(1000):
        record("weights", lambda rows, heads: 1 / 0, shape=(1, 1, 1, 1))
    assert time.perf_counter() - start < 1  # a smoke alarm only: each is under a microsecond


def test_a_stated_bound_is_kept(x):
    mha = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    with capture(mha, rows=0, limit=3 * 4 * 7 * 4) as maps:
        mha(x, x, x)
    assert maps["MultiheadAttention"].numel() * 4 == 3 * 4 * 7 * 4
    with (
        pytest.raises(
            ValueError,
            match=r"3 samples × 4 heads × 7 rows × 7 columns.*over the limit of 0\.0 MiB.*rows=, heads= or layers=.*limit=",
        ),
        capture(mha, limit=100),
    ):
        mha(x, x, x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": "self_atn"}, r"no layer is called 'self_atn'; near: self_attn"),
        ({"layers": -1}, "counted from 0"),
        ({"layers": nn.Linear(1, 1)}, "Linear given as a layer is not part of the model"),
        ({"rows": 7}, r"rows \[7\] asked for, but self_attn has 7"),
        ({"heads": [0, 4]}, r"heads \[4\] asked for, but self_attn has 4"),
    ],
)
def test_mistakes_are_named(x, options, match):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    with pytest.raises(ValueError, match=match), capture(layer, **options):
        layer(x)


def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match="compiled model"), capture(torch.compile(nn.Linear(1, 1))):
        pass


def test_a_layer_that_was_not_seen_says_why(x):
    model = nn.Linear(16, 16)
    with capture(model) as maps:
        model(x)
    with pytest.raises(KeyError, match="computes its softmax itself, or is compiled"):
        maps["Linear"]


def test_nothing_stays_after_an_exception(x):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            self.attn(x, x, x)
            raise RuntimeError("broken")

    model = Breaks()
    with pytest.raises(RuntimeError, match="broken"), capture(model) as maps:
        model(x)
    assert list(maps) == ["attn"]
    with capture(model) as maps:
        with pytest.raises(RuntimeError, match="broken"):
            model(x)
        model.attn(x, x, x)  # the layer that broke is no longer taken for the one that runs
    assert list(maps) == ["attn"]
    assert len(maps.all("attn")) == 2


def test_captures_nest_and_do_not_see_other_threads(x):
    mha = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    with capture(mha, rows=torch.arange(7)) as outer:
        mha(x, x, x)
        with capture(mha, rows=torch.tensor([0])) as inner:
            mha(x, x, x)
        other = threading.Thread(target=lambda: mha(x, x, x))
        other.start()
        other.join()
        mha(x, x, x)
    assert len(outer.all("MultiheadAttention")) == 3
    assert [m.shape[2] for m in inner.all("MultiheadAttention")] == [1]
