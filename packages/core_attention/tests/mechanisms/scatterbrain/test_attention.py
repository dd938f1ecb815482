"""Scatterbrain: fast paths against the definition for each choice of exact pairs, and the properties of the estimate."""

import math

import pytest
import torch
from torch import nn

from core_attention.capture.capture import capture
from core_attention.mechanisms.scatterbrain import local as scatterbrain_local
from core_attention.mechanisms.scatterbrain.attention import (
    SBPerformerFeatures,
    lowrank_product,
    orthogonal_projection,
    performer_features,
    scatterbrain_matrices,
)
from core_attention.mechanisms.scatterbrain.blocks import (
    SBBlockAttention,
    bigbird_layout,
    fixed_layout,
    longformer_layout,
    scatterbrain_block_attention,
)
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention, local_pairs, scatterbrain_local_attention
from core_attention.mechanisms.scatterbrain.lsh import (
    Clusters,
    SBSmyrfAttention,
    asymmetric_transform,
    lsh_clustering,
    scatterbrain_lsh_attention,
)


def problem(queries=33, keys=33, heads=2, dim=6, value_dim=5, dtype=torch.float64, scale=1.0):
    g = torch.Generator().manual_seed(0)
    shapes = [(heads, queries, dim), (heads, keys, dim), (heads, keys, value_dim)]
    return [(torch.randn(2, *s, generator=g, dtype=dtype) * scale).requires_grad_() for s in shapes]


def padding(keys=33):
    mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[1] = False  # a sample without any key
    return mask


def modules(causal=False, **options):
    torch.manual_seed(0)
    return {
        "local": SBLocalAttention(6, 5, features=8, causal=causal, **options),
        "lsh": SBSmyrfAttention(6, q_cluster=4, k_cluster=3, features=8, causal=causal, **options),
        "blocks": SBBlockAttention(6, "longformer", block=4, features=8, causal=causal, **options),
    }


def compare(ours, expected, inputs, **tolerance):
    probe = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours)
    torch.testing.assert_close(ours, expected, **tolerance)
    for a, b in zip(*(torch.autograd.grad((x * probe).sum(), inputs) for x in (ours, expected)), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize(("queries", "keys"), [(33, 33), (7, 33), (40, 33)])
def test_fast_paths_equal_the_definition(name, causal, padded, eps, queries, keys):
    if name == "blocks" and causal and queries != keys:
        pytest.skip("causal blocks need as many queries as keys")
    module, inputs = modules(causal, eps=eps)[name].double(), problem(queries, keys)
    q, k, v = inputs
    mask = padding() if padded else None
    choice = module.choose(q, k, mask)
    expected = module.matrices(q, k, mask=mask, choice=choice).weights @ v
    compare(module(q, k, v, mask=mask, choice=choice), expected, inputs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("window", [1, 2, 31, 64, 300])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scores", [1, 1 << 22])
def test_windows_of_any_size_in_groups_of_heads(monkeypatch, window, causal, scores):
    monkeypatch.setattr(scatterbrain_local, "SCORES", scores)  # 1: each head is computed again in the backward pass
    inputs = problem(130, 70)
    q, k, v = inputs
    module = SBLocalAttention(6, window, features=8, causal=causal).double()
    compare(module(q, k, v), module.matrices(q, k).weights @ v, inputs)


@pytest.mark.parametrize(("window", "low", "high"), [(5, -2, 2), (4, -2, 1), (1, 0, 0)])
def test_the_window_is_the_published_one(window, low, high):
    pairs = local_pairs(torch.arange(9), 9, window)
    assert pairs[4].nonzero().flatten().tolist() == list(range(4 + low, 4 + high + 1))


@pytest.mark.parametrize("causal", [False, True])
def test_all_pairs_exact_is_softmax_attention(causal):
    q, k, v = problem(scale=2.0)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(SBLocalAttention(6, 66, features=4, causal=causal).double()(q, k, v), expected)
    wide = SBSmyrfAttention(6, q_cluster=33, k_cluster=33, features=4, causal=causal).double()
    torch.testing.assert_close(wide(q, k, v), expected, rtol=1e-4, atol=1e-4)
    blocks = SBBlockAttention(6, torch.ones(5, 5, dtype=torch.bool), block=7, features=4, causal=causal).double()
    torch.testing.assert_close(blocks(q, k, v), expected)


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
def test_weights_are_a_distribution_over_real_keys(name):
    q, k, _ = problem()
    mask = padding()
    module = modules()[name].double()
    choice = module.choose(q, k, mask)
    weights = module.matrices(q, k, mask=mask, choice=choice).weights
    assert (weights >= 0).all()
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 33, dtype=torch.float64))
    assert (weights[1] == 0).all()
    assert (weights[0][:, :, ~mask[0]] == 0).all()


def test_the_matrix_is_exact_on_its_pairs_and_lowrank_elsewhere():
    q, k, _ = problem()
    module = modules()["local"].double()
    matrices, features = module.matrices(q, k), module.feature_map(q, k)
    pairs = local_pairs(torch.arange(33), 33, 5)
    exact = (q @ k.mT * 6**-0.5).exp()
    lowrank = (features.q @ features.k.mT) * features.log_scale.exp()
    torch.testing.assert_close(matrices.unnormalised, torch.where(pairs, exact, lowrank))


def test_features_are_unbiased_and_cosh_varies_less():
    q, k, _ = problem(queries=5, keys=7, heads=1, scale=0.5)
    target = (q @ k.mT * 0.5).exp()
    variances = {}
    for cosh in (True, False):
        g = torch.Generator().manual_seed(0)
        total, square, draws = 0, 0, 600
        for _ in range(draws):
            projection = orthogonal_projection(4 if cosh else 8, 6, generator=g)
            f = performer_features(q, k, projection, softmax_temp=0.5, cosh=cosh)
            estimate = ((f.q @ f.k.mT) * f.log_scale.exp()).detach()
            total, square = total + estimate / draws, square + estimate**2 / draws
        torch.testing.assert_close(total, target, rtol=0.25, atol=0)
        variances[cosh] = (square - total**2).mean()
    assert variances[True] < variances[False]


def test_many_features_approximate_the_kernel():
    """The published threshold, for the mean relative error of standard normal vectors of 21 channels."""
    errors = []
    for features in (300, 30000):
        g = torch.Generator().manual_seed(0)
        q, k = (torch.randn(1, 1, 40, 21, generator=g, dtype=torch.float64) for _ in range(2))
        f = performer_features(q, k, orthogonal_projection(features // 2, 21, generator=g))
        target = (q @ k.mT * 21**-0.5).exp()
        errors.append((((f.q @ f.k.mT) * f.log_scale.exp() - target).abs() / target).mean())
    assert errors[1] < 0.2 < errors[0]


@pytest.mark.parametrize("ortho_scaling", [0, 1])
def test_projections_are_orthogonal_within_blocks(ortho_scaling):
    g = orthogonal_projection(20, 8, ortho_scaling=ortho_scaling, generator=torch.Generator().manual_seed(0))
    assert g.shape == (20, 8)
    product = g[:8] @ g[:8].T
    torch.testing.assert_close(product, product.diagonal().diag(), atol=1e-5, rtol=0)
    if ortho_scaling == 1:
        torch.testing.assert_close(g.norm(dim=1), torch.full((20,), 8**0.5))
    with pytest.raises(ValueError, match="0 or 1, got 2"):
        orthogonal_projection(4, 4, ortho_scaling=2)


def test_error_is_below_sparse_alone_and_lowrank_alone_at_equal_memory():
    """Mixed temperatures: some rows are peaked near the diagonal, others flat. Memory is pairs and two rows of features a token."""
    g = torch.Generator().manual_seed(0)
    length, dim, window, count = 128, 16, 16, 16
    x = torch.randn(length // 8, dim, generator=g, dtype=torch.float64).repeat_interleave(8, 0)
    x = x + 0.3 * torch.randn(length, dim, generator=g, dtype=torch.float64)
    q = k = (x * torch.where(torch.arange(length) % 2 == 0, 0.5, 0.2)[:, None])[None, None]
    target = (q @ k.mT * dim**-0.5).exp()
    near, wider = (local_pairs(torch.arange(length), length, size) for size in (window, window + 2 * count))
    sparse = (target * ~wider).norm() / target.norm()
    lowrank = both = 0.0
    for seed in range(10):
        more = performer_features(
            q, k, orthogonal_projection(count // 2 + window // 4, dim, generator=torch.Generator().manual_seed(seed))
        )
        lowrank += (scatterbrain_matrices(q, k, more, near).lowrank - target).norm() / target.norm() / 10
        same = performer_features(
            q, k, orthogonal_projection(count // 2, dim, generator=torch.Generator().manual_seed(seed))
        )
        both += (scatterbrain_matrices(q, k, same, near).unnormalised - target).norm() / target.norm() / 10
    assert both < min(sparse, lowrank)


def test_squared_error_falls_by_the_share_of_exact_pairs():
    """Paper, theorem: the mean squared error is (1 − probability of an exact pair) times the low-rank one's."""
    g = torch.Generator().manual_seed(0)
    q, k = (
        nn.functional.normalize(torch.randn(1, 1, 64, 8, generator=g, dtype=torch.float64), dim=-1) for _ in range(2)
    )
    target = (q @ k.mT * 8**-0.5).exp()
    errors = torch.zeros(2, dtype=torch.float64)
    for _ in range(200):
        f = performer_features(q, k, orthogonal_projection(8, 8, generator=g))
        pairs = torch.rand(64, 64, generator=g) < 0.4
        m = scatterbrain_matrices(q, k, f, pairs)
        errors += torch.stack([(m.unnormalised - target).square().mean(), (m.lowrank - target).square().mean()])
    assert errors[0] / errors[1] == pytest.approx(0.6, abs=0.05)


def test_transformed_vectors_lie_on_one_sphere():
    q, k, _ = (x.flatten(0, 1) for x in problem(9, 8))
    wide_q, wide_k = asymmetric_transform(q, k)
    torch.testing.assert_close(wide_q @ wide_k.mT, q @ k.mT)
    norms = torch.cat([wide_q.norm(dim=-1), wide_k.norm(dim=-1)], dim=-1)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms))


def test_permuting_keys_with_their_hashes_changes_nothing():
    q, k, v = problem(keys=32, queries=32)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    module = SBSmyrfAttention(6, q_cluster=4, k_cluster=4, features=8).double()
    alpha, beta = torch.randn(8, 2, dtype=torch.float64), torch.rand(1, 2, dtype=torch.float64)

    def run(k, v):
        transformed = asymmetric_transform(q.flatten(0, 1), k.flatten(0, 1))
        return module(q, k, v, choice=Clusters(*lsh_clustering(*transformed, alpha, beta)))

    torch.testing.assert_close(run(k, v), run(k[:, :, order], v[:, :, order]))


def test_lowrank_product_is_a_masked_product():
    q, k, v = problem(70, 70)
    q, k = q.abs(), k.abs()
    torch.testing.assert_close(lowrank_product(q, k, v), (q @ k.mT) @ v)
    torch.testing.assert_close(lowrank_product(q, k, v, causal=True, chunk=16), (q @ k.mT).tril() @ v)


def test_layouts():
    assert longformer_layout(5, 5)[3].int().tolist() == [1, 0, 1, 1, 1]
    assert longformer_layout(5, 5)[0].all()
    assert (bigbird_layout(9, 9, random=2).sum(-1) >= longformer_layout(9, 9).sum(-1)).all()
    assert fixed_layout(8, 8)[5].int().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_gradcheck():
    inputs = problem(6, 7, heads=1, dim=3, value_dim=2)
    torch.manual_seed(0)
    for module in (
        SBLocalAttention(3, 3, features=4),
        SBSmyrfAttention(3, q_cluster=3, k_cluster=4, features=4),
        SBBlockAttention(3, "longformer", block=3, features=4),
    ):
        module = module.double()
        choice = module.choose(*inputs[:2], None)
        run = lambda *x, m=module, c=choice: m(*x, choice=c)  # noqa: E731
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True, check_undefined_grad=False)


def test_dropout_acts_on_exact_weights_only():
    q, k, v = (x.detach() for x in problem())
    for module in (SBLocalAttention(6, 5, features=8, dropout=0.5), SBSmyrfAttention(6, features=8, dropout=0.5)):
        module = module.double()
        choice = module.choose(q, k, None)
        expected = module.eval()(q, k, v, choice=choice)
        module.train()
        draws = torch.stack([module(q, k, v, choice=choice) for _ in range(100)])
        assert draws.std(0).max() > 0
        torch.testing.assert_close(draws.mean(0), expected, rtol=0.3, atol=0.3)
    with pytest.raises(ValueError, match=r"not available over blocks, got 0\.5"):
        SBBlockAttention(6, dropout=0.5)


def test_state_dicts_of_trained_and_fresh_published_modules():
    module = SBPerformerFeatures(6, 10)
    assert module.projection_matrix.shape == (5, 6)
    before = module.projection_matrix.clone()
    module.load_state_dict({"projection_matrix": torch.zeros(6, 10)})  # never drawn
    assert torch.equal(module.projection_matrix, before)
    drawn = torch.randn(5, 6)
    module.load_state_dict({"projection_matrix": drawn})
    assert torch.equal(module.projection_matrix, drawn)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({"projection_matrix": torch.randn(6, 10)})
    module.redraw(torch.Generator().manual_seed(0))
    assert not torch.equal(module.projection_matrix, drawn)
    assert SBPerformerFeatures(64).projection_matrix.shape == (133, 64)
    assert SBPerformerFeatures(8, 15, cosh=False).projection_matrix.shape == (15, 8)
    with pytest.raises(ValueError, match="1 random features leave no row"):
        SBPerformerFeatures(6, 1)


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
def test_capture_records_the_weights_of_chosen_rows(name):
    q, k, v = problem()
    module = modules()[name].double()
    choice = module.choose(q, k, None)
    with capture(module, rows=[3, 30], heads=[1]) as maps:
        out = module(q, k, v, choice=choice)
    (layer,) = maps
    assert maps[layer].shape == (2, 1, 2, 33)
    torch.testing.assert_close(maps[layer] @ v[:, [1]], out[:, [1]][:, :, [3, 30]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["local", "blocks"])
def test_bad_queries_stay_in_their_rows(bad, name):
    q, k, v = (x.detach() for x in problem())
    q[0, 1, 7] = bad
    out = modules()[name].double()(q, k, v)
    assert not out[0, 1, 7].isfinite().any()
    out[0, 1, 7] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_queries_stay_in_their_rows_once_hashed(bad):
    """A not-a-number in a query has no place in the order of its hash; given an order, it stays in its row."""
    q, k, v = (x.detach() for x in problem())
    module = modules()["lsh"].double()
    choice = module.choose(q, k, None)
    q[0, 1, 7] = bad
    out = module(q, k, v, choice=choice)
    assert not out[0, 1, 7].isfinite().any()
    out[0, 1, 7] = 0
    assert out.isfinite().all()
    out = module(q, k, v)
    out[0, 1, 7] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
def test_half_precision_and_long_logits_do_not_overflow(name):
    q, k, v = (x.detach().half() for x in problem())
    module = modules()[name]
    choice = module.choose(q.float(), k.float(), None)
    out = module(q * 8, k * 8, v, choice=choice)
    assert out.dtype == torch.float16
    assert out.isfinite().all()
    wide = module.double()(q.double() * 8, k.double() * 8, v.double(), choice=choice)
    torch.testing.assert_close(out.double(), wide, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_attend_to(name, queries, keys):
    inputs = problem(queries, keys)
    module = modules()[name].double()
    if name == "blocks" and queries != keys:
        module.layout = torch.ones(-(-queries // 4), -(-keys // 4), dtype=torch.bool)
    out = module(*inputs)
    assert out.shape == (2, 2, queries, 5)
    assert (out == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
def test_strided_and_expanded_tensors(name):
    q, k, v = (x.detach() for x in problem())
    module = modules()[name].double()
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k[:, :1].expand(-1, 2, -1, -1), v)]
    plain = [q, k[:, :1].repeat(1, 2, 1, 1), v]
    choice = module.choose(*plain[:2], None)
    torch.testing.assert_close(module(*strided, choice=choice), module(*plain, choice=choice))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo, at the frame of the type checker
@pytest.mark.parametrize("name", ["local", "lsh", "blocks"])
def test_compiles_and_autocasts(name):
    if name == "blocks" and torch.__version__.startswith("2.10."):
        pytest.skip("torch 2.10 fails inside its compiler: 'incorrect out shape after application of ViewMeta'")
    inputs = problem(dtype=torch.float32)
    module = modules()[name]
    choice = module.choose(*inputs[:2], None)
    expected = module(*inputs, choice=choice)
    compare(torch.compile(module, backend="aot_eager")(*inputs, choice=choice), expected, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(*inputs, choice=choice), expected)


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_the_shapes():
    q, k, v = (x.detach() for x in problem(dtype=torch.float32))
    module = modules()["local"]
    with pytest.raises(ValueError, match=r"differ: q \(2, 2, 33, 6\), k \(2, 3, 33, 6\)"):
        module(q, torch.zeros(2, 3, 33, 6), torch.zeros(2, 3, 33, 5))
    with pytest.raises(ValueError, match=r"four axes: q \(2, 33, 6\)"):
        module(q[:, 0], k, v)
    with pytest.raises(ValueError, match="floating point"):
        module(q.long(), k, v)
    with pytest.raises(ValueError, match=r"key_mask must be bool .* = \(2, 33\), got torch.bool \(2, 5\)"):
        module(q, k, v, mask=torch.ones(2, 5, dtype=torch.bool))
    features = module.feature_map(q, k)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        scatterbrain_local_attention(q, k, v, features, window=0)
    clusters = Clusters(torch.zeros(1, 4, 8, dtype=torch.long), torch.zeros(1, 4, 9, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"\(1, 4, 8\) and \(1, 4, 9\) are not equally many clusters of 4 queries and 3"
    ):
        scatterbrain_lsh_attention(q, k, v, features, clusters, q_cluster=4, k_cluster=3)
    clusters = Clusters(torch.zeros(1, 4, 8, dtype=torch.long), torch.zeros(1, 4, 6, dtype=torch.long))
    with pytest.raises(ValueError, match=r"leave out some of q \(2, 2, 33, 6\)"):
        scatterbrain_lsh_attention(q, k, v, features, clusters, q_cluster=4, k_cluster=3)
    with pytest.raises(ValueError, match=r"layout \(2, 2\) is not the \(5, 5\) blocks of 8"):
        scatterbrain_block_attention(q, k, v, features, torch.ones(2, 2, dtype=torch.bool), block=8)
    with pytest.raises(ValueError, match="unknown layout 'ring'"):
        SBBlockAttention(6, "ring")
    with pytest.raises(ValueError, match="hashes must be at least 1, got 0"):
        SBSmyrfAttention(6, hashes=0)
