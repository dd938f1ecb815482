"""ACMIL against its published golden cases and the properties that the paper implies (the spec's acceptance checks, by number)."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from core_attention.pooling.attention import EXCLUDED
from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, ACMILConfig, MeanMIL, stkim_mask
from pathology_mil.model.declaration import system
from pathology_mil.model.losses import LossWeights, acmil_loss, attention, diversity, negative_entropy
from pathology_mil.model.official import infer_config

GOLDEN = Path(__file__).parent / "golden/acmil"
FORMS = [ACMIL_GA, ACMIL_MHA]


def make(form, seed=0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    config = ACMILConfig(**({"n_features": 12, "n_class": 3, "width": 16, "hidden": 10, "branches": 4} | changes))
    model = form(config).to(dtype)
    if form is ACMIL_MHA:
        model.query.data.normal_()  # the published start (1e-6) makes every attention uniform
    return model


def bag(n, seed=1, width=12):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_mha(model, x):
    """The published layer written out: keys and values projected for every branch."""
    c = model.config
    heads = lambda t: t.view(-1, c.heads, c.inner // c.heads).transpose(0, 1)  # noqa: E731
    h = torch.relu(x @ model.project.T)
    scores, branches = [], []
    for m in range(c.branches):
        q, k, v = (
            heads(F.linear(t, getattr(model, f"{name}_weight")[m], getattr(model, f"{name}_bias")[m]))
            for name, t in (("query", model.query[m : m + 1]), ("key", h), ("value", h))
        )
        scores.append(q @ k.mT / math.sqrt(c.inner // c.heads))
        z = (scores[-1].softmax(-1) @ v).transpose(0, 1).reshape(1, -1)
        z = F.linear(z, model.out_weight[m], model.out_bias[m])
        branches.append(F.layer_norm(z, (c.inner,), model.norm_weight[m], model.norm_bias[m], 1e-6))
    scores = torch.cat(scores, 1)
    v = heads(F.linear(h, model.slide_value_weight, model.slide_value_bias))
    z = (scores.softmax(-1).mean(1, keepdim=True) @ v).transpose(0, 1).reshape(1, -1)
    z = F.linear(z, model.slide_out_weight, model.slide_out_bias)
    z = F.layer_norm(z, (c.inner,), model.slide_norm_weight, model.slide_norm_bias, 1e-6)
    return F.linear(z, model.slide_weight, model.slide_bias), torch.cat(branches), scores


def test_mha_is_the_published_layer_with_gradients():
    model, x = make(ACMIL_MHA).eval(), bag(23).requires_grad_()
    logits, _, scores = published_mha(model, x)
    out = model(x)
    torch.testing.assert_close(out.slide_logits, logits)
    torch.testing.assert_close(out.scores, scores)
    probe = torch.randn_like(scores)
    leaves = [x, *(p for n, p in model.named_parameters() if not n.startswith(("branch", "value", "out", "norm")))]
    ours = torch.autograd.grad(out.slide_logits.sum() + (out.scores * probe).sum(), leaves)
    theirs = torch.autograd.grad(logits.sum() + (scores * probe).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_02_one_branch_without_masking_is_gated_abmil():
    model, x = make(ACMIL_GA, branches=1, top_k=0).train(), bag(30)
    h = torch.relu(x @ model.project.T)
    v, u = model.gate_weight.chunk(2)
    bv, bu = model.gate_bias.chunk(2)
    a = ((torch.tanh(h @ v.T + bv) * torch.sigmoid(h @ u.T + bu)) @ model.score_weight.T + model.score_bias).softmax(0)
    out = model(x)
    torch.testing.assert_close(out.slide_logits, F.linear(a.T @ h, model.slide_weight, model.slide_bias))
    losses = acmil_loss(out, torch.tensor([1]))
    assert losses.branch == 0
    assert losses.diversity == 0
    torch.testing.assert_close(losses.total, F.cross_entropy(out.slide_logits, torch.tensor([1])))


@pytest.mark.parametrize("form", FORMS)
def test_03_permuting_patches_permutes_attention(form):
    model, x = make(form).eval(), bag(40)
    order = torch.randperm(40)
    out, shuffled = model(x), model(x[order])
    torch.testing.assert_close(shuffled.slide_logits, out.slide_logits)
    torch.testing.assert_close(shuffled.branch_logits, out.branch_logits)
    torch.testing.assert_close(shuffled.scores, out.scores[..., order])


@pytest.mark.parametrize("form", FORMS)
def test_04_duplicating_patches_halves_each_attention_weight(form):
    model, x = make(form).eval(), bag(25)
    out, twice = model(x), model(x.repeat_interleave(2, 0))
    torch.testing.assert_close(twice.slide_logits, out.slide_logits)
    torch.testing.assert_close(twice.branch_logits, out.branch_logits)
    torch.testing.assert_close(attention(twice.scores)[..., ::2] * 2, attention(out.scores))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("n", "top_k", "drop"), [(50, 10, 0.6), (7, 10, 0.6), (50, 3, 0.5), (5, 10, 1.0), (50, 10, 0.0), (50, 0, 0.6)]
)
def test_05_stkim_masks_exactly_within_the_top_k_and_never_in_eval(form, n, top_k, drop):
    model, x = make(form, top_k=top_k, mask_drop=drop), bag(n)
    raw = model.eval()(x).scores
    assert raw.min() > EXCLUDED
    out = model.train()(x)
    masked = out.scores <= EXCLUDED
    assert (masked.sum(-1) == int(min(top_k, n) * drop)).all()
    if masked.any():
        kth = raw.topk(min(top_k, n), dim=-1).values[..., -1:]
        assert (raw.masked_fill(~masked, math.inf) >= kth).all()
    assert out.slide_logits.isfinite().all()
    if drop == 1 and n <= top_k:
        torch.testing.assert_close(attention(out.scores), torch.full_like(out.scores, 1 / n))
    assert all(
        g.isfinite().all() for g in torch.autograd.grad(acmil_loss(out, torch.tensor([0])).total, [model.project])
    )


def test_stkim_follows_the_given_uniforms_and_never_draws_padding():
    scores = torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [2.0, 4.0], [1.0, 5.0]])
    uniforms = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.1, 0.2, 0.3, 0.4]])  # per row, over the descending list
    found = stkim_mask(scores, 4, 0.5, uniforms)
    assert found.T.tolist() == [[False, True, False, True, False], [False, False, False, True, True]]
    padded = torch.cat([scores, torch.full((9, 2), -math.inf)])
    struck = stkim_mask(padded, 10, 0.6)
    assert not struck[5:].any()
    assert (struck.sum(0) == 3).all()  # ⌊min(10, 5) · 0.6⌋


def test_06_diversity_of_identical_and_disjoint_branches():
    same = torch.rand(3, 1, 20).softmax(-1).expand(3, 4, 20)
    torch.testing.assert_close(diversity(same), torch.tensor(1.0))
    assert diversity(torch.eye(5)[None, :4]) == 0
    rows = torch.rand(2, 3, 11).softmax(-1)
    pairs = [F.cosine_similarity(rows[:, i], rows[:, j], dim=-1).mean() for i in range(3) for j in range(i)]
    torch.testing.assert_close(diversity(rows), torch.stack(pairs).mean())


def test_07_slide_embedding_is_the_mean_of_the_branch_embeddings():
    model, x = make(ACMIL_GA).eval(), bag(31)
    out = model(x)
    h = torch.relu(x @ model.project.T)
    a = attention(out.scores)[0]
    torch.testing.assert_close(out.embedding, (a @ h).mean(0, keepdim=True))
    torch.testing.assert_close(out.embedding, a.mean(0, keepdim=True) @ h)


@pytest.mark.parametrize("form", [*FORMS, MeanMIL])
def test_08_one_patch_works(form):
    model, x = make(form), bag(1)
    for mode in (True, False):
        out = model.train(mode)(x)
        assert attention(out.scores).unique().item() == 1
        assert out.slide_logits.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_09_streamed_equals_one_shot(form, training, monkeypatch):
    from core_attention.pooling import attention as pooling

    model, x = make(form, dtype=torch.float32, dropout=0.0).train(training), bag(700).float()
    uniforms = torch.rand(1, 4 * (8 if form is ACMIL_MHA else 1), 10)
    whole = acmil_loss(out := model(x, uniforms=uniforms), torch.tensor([1])).total
    grads = torch.autograd.grad(whole, list(model.parameters()), allow_unused=True)
    monkeypatch.setitem(pooling.KEPT_BYTES, "cpu", 1)
    monkeypatch.setitem(pooling.CHUNK_BYTES, "cpu", 1)
    streamed = acmil_loss(again := model(x, uniforms=uniforms), torch.tensor([1])).total
    torch.testing.assert_close(again.slide_logits, out.slide_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.scores, out.scores, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(streamed, list(model.parameters()), allow_unused=True), grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_12_attention_rows_sum_to_one():
    for form in FORMS:
        out = make(form, dtype=torch.float32).train()(bag(500).float())
        torch.testing.assert_close(attention(out.scores).sum(-1), torch.ones(out.scores.shape[:2]))


PARAMETERS = {  # F: (GA M=5, GA M=1, MHA M=5, MHA M=1), 2 classes
    384: (84_369, 82_821, 416_140, 149_380),
    512: (200_593, 198_021, 1_585_932, 528_132),
    768: (398_737, 395_141, 3_558_540, 1_185_412),
    1024: (662_417, 657_797, 6_317_580, 2_104_836),
    1536: (1_386_385, 1_379_717, 14_194_956, 4_730_116),
}


@pytest.mark.parametrize("width", PARAMETERS)
def test_parameter_counts_are_the_published_ones(width):
    found = []
    for form in FORMS:
        for branches in (5, 1):
            with torch.device("meta"):
                model = form(ACMILConfig(n_features=width, n_class=2, branches=branches))
            found.append(sum(p.numel() for p in model.parameters()))
    assert tuple(found) == PARAMETERS[width]


@pytest.mark.parametrize("form", [*FORMS, MeanMIL])
def test_packed_bags_equal_single_ones(form):
    model, bags = make(form).eval(), [bag(n, seed=n) for n in (3, 17, 1)]
    segments = torch.arange(3).repeat_interleave(torch.tensor([3, 17, 1]))
    packed = model(torch.cat(bags), segments=segments)
    alone = [model(x) for x in bags]
    for name in ("slide_logits", "branch_logits", "embedding"):
        torch.testing.assert_close(getattr(packed, name), torch.cat([getattr(o, name) for o in alone]))
    torch.testing.assert_close(packed.scores, torch.cat([o.scores for o in alone], -1))
    labels = torch.tensor([0, 2, 1])
    weights = LossWeights(aem=0.1)
    total = acmil_loss(packed, labels, lengths=[3, 17, 1], weights=weights).total
    each = [acmil_loss(o, labels[i : i + 1], weights=weights).total for i, o in enumerate(alone)]
    torch.testing.assert_close(total, torch.stack(each).mean())


@pytest.mark.parametrize("form", FORMS)
def test_packed_training_masks_each_bag(form):
    model = make(form).train()
    out = model(torch.cat([bag(4), bag(30)]), segments=torch.tensor([0] * 4 + [1] * 30))
    first, second = (out.scores <= EXCLUDED).split([4, 30], -1)
    assert (first.sum(-1) == 2).all()  # ⌊4 · 0.6⌋
    assert (second.sum(-1) == 6).all()


def test_loss_weights_and_entropy_term():
    out, label = make(ACMIL_GA).eval()(bag(20)), torch.tensor([2])
    losses = acmil_loss(out, label, weights=LossWeights(slide=0.5, branch=2.0, diversity=3.0, aem=0.1))
    a = attention(out.scores)
    torch.testing.assert_close(losses.aem, (a * a.log()).sum(-1).mean())
    expected = 0.5 * losses.slide + 2 * losses.branch + 3 * losses.diversity + 0.1 * losses.aem
    torch.testing.assert_close(losses.total, expected)
    each = [F.cross_entropy(y[None], label) for y in out.branch_logits[0]]
    torch.testing.assert_close(losses.branch, torch.stack(each).mean())
    for masked in (EXCLUDED, -math.inf):
        scores = torch.tensor([[[masked, 2.0, masked]]], requires_grad=True)
        negative_entropy(scores).backward()
        assert negative_entropy(scores) == 0
        assert (scores.grad == 0).all()


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\[instances, 12\].*\(5, 11\)"):
        make(ACMIL_GA)(bag(5, width=11))
    with pytest.raises(ValueError, match="divisible by the heads: got 12 and 8"):
        make(ACMIL_MHA, width=12)
    for wrong in ({"branches": 0}, {"mask_drop": 1.5}, {"top_k": -1}, {"width": 0}):
        with pytest.raises(ValueError, match="got"):
            make(ACMIL_GA, **wrong)
    with pytest.raises(TypeError):
        ACMILConfig(n_features=3, n_class=2, n_branches=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["ga_eval", "ga_train_stkim", "mha_train_stkim"])
def test_10_shapes_tell_the_config_of_an_official_checkpoint(name):
    from safetensors.torch import load_file

    case = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    state = {k.removeprefix("state_dict/"): v for k, v in tensors.items() if k.startswith("state_dict/")}
    found = infer_config(state)
    assert found.pop("component") == case["component"]
    assert found == {k: case["config"][k] for k in found}
    model = system.components[case["component"]].load(found, state).eval()
    out = model(tensors["input/features"])
    if case["mode"] == "eval":
        torch.testing.assert_close(out.slide_logits, tensors["output/bag_logits"], rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match="dimreduction"):
        infer_config({"weight": torch.zeros(1)})
