"""`auto` follows its one rule, says why, and never falls back in silence."""

import sys
import types

import pytest
import torch

from core_attention.attention import attention, explain, explain_shapes
from core_attention.backends import choice, xformers
from core_attention.masks import Blocks, Causal, Segments

SHAPE = (2, 4, 64, 32)


pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(
    ("device", "mask", "options", "taken"),
    [
        ("cpu", "none", {}, "sdpa"),
        ("cpu", "blocks", {}, "sdpa"),
        ("mps", "causal & lengths", {}, "sdpa"),
        ("cuda", "none", {}, "sdpa"),
        ("cuda", "causal", {}, "sdpa"),
        ("cuda", "causal", {"return_lse": True}, "triton"),
        ("cuda", "causal&segments", {}, "triton"),
        ("cuda", "window", {"dtype": "bfloat16"}, "triton"),
        ("cuda", "window", {"dtype": "float64"}, "sdpa"),
        ("cuda", "blocks", {}, "flex"),
        ("cuda", "factorised", {}, "flex"),
        ("cuda", "dense", {}, "sdpa"),
    ],
)
def test_the_rule(device, mask, options, taken):
    told = explain_shapes(SHAPE, mask=mask, device=device, **options)
    assert told.backend == taken
    assert set(told.others) == set(choice.BACKENDS) - {taken}
    assert all(told.others.values())
    assert f"{taken}: taken" in str(told)


def test_odd_widths_go_past_flex():
    told = explain_shapes((1, 2, 64, 48), mask="factorised", device="cuda")
    assert told.backend == "triton"
    assert "powers of two" in told.others["flex"]
    assert explain_shapes((1, 2, 64, 320), mask="window", device="cuda").backend == "sdpa"


def test_explain_and_shapes_agree():
    q = torch.zeros(SHAPE)
    ids = torch.zeros(2, 64, dtype=torch.long)
    assert explain(q, q, q, mask=Causal() & Segments(ids)) == explain_shapes(SHAPE, mask="causal & segments")
    assert explain(q[:, :, :0], q, q).backend == "reference"


@pytest.mark.parametrize("backend", ["triton", "flex", "xformers"])
def test_what_was_asked_for_by_name_says_why_it_cannot(backend):
    q = torch.zeros(SHAPE)
    with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot compute this attention: .*(cpu|not installed)"):
        attention(q, q, q, backend=backend)


def test_triton_names_the_masks_it_knows(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    q = torch.zeros(SHAPE)
    with pytest.raises(RuntimeError, match=r"knows masks by position .*, not Blocks"):
        attention(q, q, q, mask=Blocks(torch.ones(1, 1, 4, 4, dtype=torch.bool), 16), backend="triton")


def test_xformers_that_does_not_load_is_explained(monkeypatch):
    monkeypatch.setattr(xformers, "INSTALLED", True)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    told = explain_shapes(SHAPE, device="cuda")
    assert "do not load" in told.others["xformers"]
    assert "causal" in explain_shapes(SHAPE, device="cuda", mask="window").others["xformers"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"q": (1, 2, 3)}, "batch, heads, length, width"),
        ({"q": SHAPE, "k": (2, 3, 64, 32)}, "key heads dividing"),
        ({"q": SHAPE, "mask": "diagonal"}, "unknown mask diagonal"),
        ({"q": SHAPE, "dtype": "int8"}, "unknown float dtype 'int8'"),
        ({"q": SHAPE, "backend": "fast"}, "unknown backend 'fast'"),
    ],
)
def test_bad_questions(arguments, match):
    with pytest.raises(ValueError, match=match):
        explain_shapes(**arguments)
