import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import Attention, VisionTransformer

from core_attention.capture.capture import capture
from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts, coordinated_attention, fourier, match


def shared() -> Path | None:
    given = os.environ.get("CORE_ATTENTION_SHARED")
    folders = ([Path(given)] if given else []) + [p / "shared" for p in Path(__file__).resolve().parents]
    return next((f for f in folders if (f / "papers" / "tcpa").is_dir()), None)


def inputs(n=7, p=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    sizes = [(2, 3, n, 4)] * 3 + [(1, 3, p, 4)] * 2
    tensors = [torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in sizes]
    return tensors, torch.rand(2, n, p, generator=g) > 0.4


def definition(q, k, v, k_prompt, v_prompt, allowed, renormalise=False):
    keys, values = (torch.cat([a, b.expand(2, -1, -1, -1)], 2) for a, b in ((k, k_prompt), (v, v_prompt)))
    mask = F.pad(allowed[:, None], (k.shape[2], 0), value=True)
    scores = q @ keys.mT * q.shape[3] ** -0.5
    if renormalise:
        return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values
    return (scores.softmax(-1) * mask) @ values


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("n", "p"), [(7, 5), (1, 1), (5, 0)])
def test_merged_form_is_the_definition(renormalise, n, p):
    given, allowed = inputs(n, p)
    y, want = (f(*given, allowed, renormalise=renormalise) for f in (coordinated_attention, definition))
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-8)
    for one, other in zip(
        torch.autograd.grad(y.pow(2).sum(), given), torch.autograd.grad(want.pow(2).sum(), given), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_no_prompt_allowed():
    given, allowed = inputs()
    plain = F.scaled_dot_product_attention(*given[:3])
    none = torch.zeros_like(allowed)
    torch.testing.assert_close(coordinated_attention(*given, none, renormalise=True), plain)
    with capture(None) as maps:
        y = coordinated_attention(*given, none)
    mass = maps["function"].sum(-1)
    assert (mass < 1).all()
    torch.testing.assert_close(y, plain * mass[..., None].to(y.dtype), rtol=1e-5, atol=1e-6)


def test_rows_sum_to_one_only_if_every_prompt_is_allowed():
    given, allowed = inputs()
    allowed[0, 0] = True
    allowed[0, 1] = torch.tensor([True, False, True, True, True])
    with capture(None, rows=[0, 1]) as maps:
        coordinated_attention(*given, allowed)
    sums = maps["function"].sum(-1)[0]
    torch.testing.assert_close(sums[:, 0], torch.ones(3))
    assert (sums[:, 1] < 1).all()


def test_match_takes_the_nearest_keys():
    tokens, keys = torch.randn(2, 4, 6), torch.randn(5, 6)
    selected, distance = match(tokens, keys, 2)
    cosine = F.cosine_similarity(tokens[:, :, None], keys, dim=3)
    assert torch.equal(selected, cosine >= cosine.topk(2).values[..., 1:])
    torch.testing.assert_close(distance, 1 - cosine.topk(2).values.mean())
    everything, distance = match(tokens, keys, 5)
    assert everything.all()
    torch.testing.assert_close(distance, 1 - cosine.mean())
    draws = torch.rand(2, 4, 5)
    assert torch.equal(match(tokens, keys, 2, draws=draws)[0], draws >= draws.topk(2).values[..., 1:])
    with pytest.raises(ValueError, match="all 5 entries of its pool, got 6"):
        match(tokens, keys, 6)


def test_fourier_is_a_full_transform_without_normalisation():
    prompts = torch.randn(5, 8, dtype=torch.float64)
    dft = [torch.exp(-2j * torch.pi * torch.outer(*[torch.arange(n, dtype=torch.float64)] * 2) / n) for n in (5, 8)]
    torch.testing.assert_close(fourier(prompts), (dft[0] @ prompts.to(torch.complex128) @ dft[1]).real)


def layer(**options):
    torch.manual_seed(0)
    given = {"cls_entries": 4, "image_entries": 5, "cls_length": 2, "cls_k": 2, "image_k": 3} | options
    prompts = TokenCoordinatedPrompts(3, 12, **given).double().eval()
    return prompts, torch.nn.LayerNorm(12).double(), Attention(12, 3, qkv_bias=True).double()


X = torch.randn(2, 10, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_roles():
    prompts, _, _ = layer()
    allowed, _ = prompts.coordinate(0, X)
    assert allowed.shape == (2, 10, 8 + 5)
    assert not allowed[:, 0, 8:].any()
    assert not allowed[:, 1:, :8].any()
    assert (allowed[:, 0, :8].view(2, 4, 2).all(2).sum(1) == 2).all()  # whole entries
    assert (allowed[:, 1:, 8:].sum(2) == 3).all()


def test_as_many_as_there_are_is_the_role_only_variant():
    full, roles = layer(cls_k=4, image_k=5)[0], layer(cls_k=None, image_k=None)[0]
    (one, distance), (two, nothing) = full.coordinate(1, X), roles.coordinate(1, X)
    assert torch.equal(one, two)
    assert nothing == 0
    cosines = (
        F.normalize(t, dim=2) @ F.normalize(p.keys[1], dim=1).mT
        for t, p in ((X[:, :1], full.cls), (X[:, 1:], full.image))
    )
    torch.testing.assert_close(distance, sum(1 - c.mean() for c in cosines))


def test_values_of_the_other_role_do_not_matter_but_their_keys_do():
    prompts, norm, attn = layer(affine=True, use_fourier=False)
    y, _ = prompts(0, X, norm, attn)
    prompts.shift.data[:, 8:] += 1  # values of the image prompts
    z, _ = prompts(0, X, norm, attn)
    torch.testing.assert_close(z[:, 0], y[:, 0])
    assert not torch.allclose(z[:, 1:], y[:, 1:])
    prompts.image.prompts.data[0].normal_()  # and now their keys
    assert not torch.allclose(prompts(0, X, norm, attn)[0][:, 0], y[:, 0])


def test_gradients_reach_keys_by_the_distance_and_prompts_by_the_task_only():
    prompts, norm, attn = layer()
    z, distance = prompts(2, X, norm, attn)
    z.sum().backward(retain_graph=True)
    assert prompts.cls.keys.grad is None
    assert prompts.cls.prompts.grad[2].abs().sum() > 0
    prompts.zero_grad()
    distance.backward()
    assert prompts.cls.prompts.grad is None
    assert prompts.image.keys.grad[2].abs().sum() > 0
    assert (prompts.image.keys.grad[:2] == 0).all()


def test_later_matching_reaches_earlier_prompts_but_not_the_last():
    prompts, norm, attn = layer()
    x, total = X, 0.0
    for number in range(3):
        z, distance = prompts(number, x, norm, attn)
        x, total = x + z, total + distance
    total.backward()
    for pool in (prompts.cls, prompts.image):
        assert (pool.prompts.grad[2] == 0).all()
        assert pool.prompts.grad[0].abs().sum() > 0


def test_samples_do_not_mix_and_strides_do_not_matter():
    prompts, norm, attn = layer()
    want, _ = prompts(0, X, norm, attn)
    torch.testing.assert_close(prompts(0, X[1:], norm, attn)[0], want[1:])
    torch.testing.assert_close(prompts(0, X.mT.contiguous().mT, norm, attn)[0], want)
    spoilt = X.clone()
    spoilt[0, 3, 0] = torch.nan
    y, _ = prompts(0, spoilt, norm, attn)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], want[1])


def test_compiles_in_one_graph(unhooked):
    """Without the tests' own checks of signatures, which Dynamo cannot trace."""
    code = """
import torch
from timm.models.vision_transformer import Attention
from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts
prompts = TokenCoordinatedPrompts(1, 12, cls_entries=4, image_entries=5, cls_k=2, image_k=3).double().eval()
norm, attn, x = torch.nn.LayerNorm(12).double(), Attention(12, 3).double(), torch.randn(2, 10, 12).double()
call = lambda x: prompts(0, x, norm, attn)
for one, other in zip(torch.compile(call, backend="aot_eager", fullgraph=True)(x), call(x)):
    torch.testing.assert_close(one, other)
"""
    unhooked(code)


def test_order_of_entries_matters_to_the_fourier_form_only():
    for use_fourier in (False, True):
        prompts, norm, attn = layer(use_fourier=use_fourier)
        y, _ = prompts(0, X, norm, attn)
        order = torch.tensor([4, 2, 0, 1, 3])
        for p in (prompts.image.keys, prompts.image.prompts):
            p.data = p.data[:, order]
        assert torch.allclose(prompts(0, X, norm, attn)[0], y) != use_fourier


def test_empty_pools_are_the_plain_attention():
    prompts, norm, attn = layer(cls_entries=0, image_entries=0)
    z, distance = prompts(0, X, norm, attn)
    torch.testing.assert_close(z, attn(norm(X)))
    assert distance == 0


def test_random_phase_draws_whole_subsets():
    prompts, norm, attn = layer()
    torch.manual_seed(0)
    one, two = (prompts.coordinate(0, X, random=True)[0] for _ in range(2))
    assert not torch.equal(one, two)
    assert (one[:, 1:, 8:].sum(2) == 3).all()
    assert prompts(0, X, norm, attn, random=True)[1].isfinite()


def test_parameters_as_published():
    """ViT-B with 18 entries a pool: two pools of keys and prompts, 817 352 less the head's 153 800."""
    assert sum(p.numel() for p in TokenCoordinatedPrompts(12, 768).parameters()) == 817_352 - 153_800


@pytest.mark.usefixtures("unchecked")
def test_errors_and_other_grids():
    prompts, norm, attn = layer()
    with pytest.raises(ValueError, match=r"\(batch, 1 \+ patches, 12\), got \(2, 10, 8\)"):
        prompts(0, X[..., :8], norm, attn)
    given, allowed = inputs()
    with pytest.raises(ValueError, match=r"allowed \(2, 7, 5\).*got \(2, 7, 4\)"):
        coordinated_attention(*given, allowed[..., :4])
    with pytest.raises(ValueError, match="all 5 entries of the image pool, got 6"):
        layer(image_k=6)
    with pytest.raises(ValueError, match="impossible pool"):
        layer(cls_length=0)
    for n in (1, 2, 14):  # the class token alone; one patch; no square
        assert prompts(0, torch.randn(1, n, 12, dtype=torch.float64), norm, attn)[0].shape == (1, n, 12)


def test_autocast():
    prompts, norm, attn = (m.float() for m in layer())
    want, _ = prompts(0, X.float(), norm, attn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = prompts(0, X.float(), norm, attn)
    torch.testing.assert_close(z.float(), want, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("case", ["tcpa_full", "tcpa_roles_only_advp"])
def test_published_network_around_it(case):
    """Logits, masks, transformed prompts, matching distance and gradients of the recorded networks, built from timm's ViT."""
    folder = shared()
    if folder is None:
        pytest.skip("the recorded cases of tcpa are not at hand: set CORE_ATTENTION_SHARED")
    path = folder / "papers" / "tcpa" / "golden" / f"{case}.json"
    c, tensors = json.loads(path.read_text())["config"], load_file(path.with_suffix(".safetensors"))
    state = {k.removeprefix("state_dict/"): v for k, v in tensors.items() if k.startswith("state_dict/")}
    sizes = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")
    vit = VisionTransformer(**{name: c[name] for name in sizes}).eval()
    vit.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    pools = [("cls", "Pool.Pool_cls"), ("image", "Pool.Pool_image")]
    given = {f"{ours}_entries": c[f"pool_size_{ours}"] for ours, _ in pools}
    given |= {f"{ours}_length": c[f"len_prompts_{ours}"] for ours, _ in pools}
    given |= {f"{ours}_k": c[f"topk_{ours}"] if c["TDVP"] else None for ours, _ in pools}
    prompts = TokenCoordinatedPrompts(
        c["depth"], c["embed_dim"], use_fourier=c["fourier"], affine=c["ADVP"], **given
    ).eval()
    names = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in pools for kind in ("keys", "prompts")}
    names |= {"scale": "ADVP_w", "shift": "ADVP_b"} if c["ADVP"] else {}
    prompts.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    close = {"rtol": 2e-4, "atol": 2e-5}
    torch.testing.assert_close(prompts.prompts(0), tensors["output/fourier_prompts.0"], **close)
    x, total = vit._pos_embed(vit.patch_embed(tensors["input/image"])), 0.0
    for number, block in enumerate(vit.blocks):
        allowed, _ = prompts.coordinate(number, x)
        assert torch.equal(allowed, tensors[f"output/prompt_mask.{number}"].bool())
        z, distance = prompts(number, x, block.norm1, block.attn)
        total = total + distance
        x = x + z
        x = x + block.mlp(block.norm2(x))
    logits = vit.head(vit.norm(x)[:, 0])
    torch.testing.assert_close(logits, tensors["output/logits"], **close)
    if c["TDVP"]:
        torch.testing.assert_close(total, tensors["output/matching_distance"], **close)
    (logits * tensors["probe/logits"]).sum().backward()
    for ours, theirs in pools:
        want = tensors[f"grad/state_dict/{theirs}.prompts"]
        torch.testing.assert_close(prompts.get_parameter(f"{ours}.prompts").grad, want, **close)
