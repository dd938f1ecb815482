"""Sparsifiner's predictor, attention and losses: the acceptance checks of the mechanism, and its edges."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.sparsifiner import losses as sparsifiner_losses
from core_attention.mechanisms.sparsifiner import predictor as sparsifiner
from core_attention.mechanisms.sparsifiner.attention import SparsifinerAttention
from core_attention.mechanisms.sparsifiner.official import predictor_options
from core_attention.mechanisms.sparsifiner.predictor import MaskPredictor, resample_predictor

PREDICTOR = {"num_heads": 2, "num_tokens": 26, "reduce_n_factor": 3, "coef_topk": 3}


def grown(module, seed=0):
    """Weights large enough to have opinions."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module.double()


def layer_of(**options):
    return grown(SparsifinerAttention(16, **(PREDICTOR | options)))


def tokens(count=26, batch=2, dim=16, seed=1):
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(layer, x):
    return layer.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)


def alive(*counts, patches=25):
    g = torch.Generator().manual_seed(2)
    mask = torch.zeros(len(counts), patches, dtype=torch.bool)
    for row, count in zip(mask, counts, strict=True):
        row[torch.randperm(patches, generator=g)[:count]] = True
    return mask


@pytest.mark.parametrize("path", ["gather", "mask"])
def test_keeping_everything_is_dense_attention(path):
    layer, x = layer_of(attn_keep_rate=1.0, path=path), tokens()
    dense = F.scaled_dot_product_attention(*heads(layer, x)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), layer.proj(dense))


def test_rows_keep_their_budget_and_the_class_token_keeps_all():
    predictor = grown(MaskPredictor(16, **PREDICTOR))
    q, k = tokens(dim=16).unflatten(-1, (2, 8)).transpose(1, 2), tokens(seed=3).unflatten(-1, (2, 8)).transpose(1, 2)
    found = predictor(q.requires_grad_(), k)
    assert (found.mask[:, :, 1:].sum(-1) == 7).all()  # ceil(0.25 · 26)
    assert found.mask[:, :, 0].all()
    assert not found.mask.requires_grad
    assert found.scores.requires_grad
    kept = found.scores.masked_fill(~found.mask[:, :, 1:], torch.inf).amin(-1)
    left = found.scores.masked_fill(found.mask[:, :, 1:], -torch.inf).amax(-1)
    assert (kept >= left).all()
    shares = found.sparsity()
    assert abs(float(shares["mask"]) - (1 - (25 * 7 + 26) / 26**2)) < 1e-6
    assert abs(float(shares["coefficients"]) - 5 / 8) < 1e-6


def test_the_predictor_learns_nothing_from_the_output():
    layer, x = layer_of(), tokens()
    layer(x).sin().sum().backward()
    assert all(p.grad is None for p in layer.mask_predictor.parameters())
    assert layer.qkv.weight.grad.abs().max() > 0


def test_warm_up_is_dense_whatever_the_predictor_says():
    layer, x = layer_of(), tokens()
    dense = layer.proj(F.scaled_dot_product_attention(*heads(layer, x)).transpose(1, 2).flatten(2))
    for seed in (5, 6):
        grown(layer.mask_predictor, seed)
        torch.testing.assert_close(layer.detailed(x, warm_up=True).y, dense)
    details = layer.detailed(x, warm_up=True, details=True)
    raw = details.connectivity.coefficients @ layer.mask_predictor.proj_back_n.T
    torch.testing.assert_close(details.connectivity.scores, raw)
    torch.testing.assert_close(details.connectivity.coefficients.sum(-1), torch.ones(2, 2, 25, dtype=torch.float64))


@pytest.mark.parametrize("path", ["gather", "mask"])
def test_samples_do_not_change_each_other(path):
    layer, x = layer_of(path=path, token_keep_rate=0.5, prune_rows=True), tokens()
    mask = alive(4, 20)
    both = layer.detailed(x, token_mask=mask)
    for b in range(2):
        alone = layer.detailed(x[b : b + 1], token_mask=mask[b : b + 1])
        torch.testing.assert_close(both.y[b], alone.y[0])
        assert torch.equal(both.token_mask[b], alone.token_mask[0])
    first = layer_of(budget_of="first").mask_predictor
    q, k, _ = heads(layer, x)
    assert (first(q, k, token_mask=mask).mask[1, :, 1:].sum(-1) == 4).all()
    assert (layer.mask_predictor(q, k, token_mask=alive(20, 4)).mask[0, :, 1:][:, alive(20, 4)[0]].sum(-1) == 7).all()


@pytest.mark.parametrize("prune_rows", [True, False])
def test_paths_agree(prune_rows, monkeypatch):
    monkeypatch.setattr(sparsifiner, "ROWS", 26 * 4 * 3)  # a few rows at a time
    x = tokens().requires_grad_()
    for token_mask in (None, alive(4, 20)):
        found = []
        for path in ("gather", "mask"):
            layer = layer_of(path=path, prune_rows=prune_rows)
            y = layer(x, token_mask=token_mask)
            found.append((y, *torch.autograd.grad(y.sin().sum(), [x, layer.qkv.weight, layer.proj.weight])))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_nobody_alive_attends_to_the_dead():
    layer, x = layer_of(prune_rows=True), tokens()
    mask = alive(7, 20)
    found = layer.detailed(x, token_mask=mask, details=True).connectivity.mask
    for b in range(2):
        assert not found[b, :, 1:, 1:][..., ~mask[b]].any()
        assert not found[b, :, 1:][:, ~mask[b]].any()
        assert (found[b, :, 1:][:, mask[b]].sum(-1) == 7).all()


def test_pruning_keeps_what_the_class_token_attends_to():
    layer, x = layer_of(token_keep_rate=0.3), tokens()
    q, k, _ = heads(layer, x)
    score = (q[:, :, :1] @ k.mT * 8**-0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    after = layer.detailed(x).token_mask
    assert (after.sum(-1) == 8).all()
    assert (score.masked_fill(~after, 9).amin(-1) >= score.masked_fill(after, -9).amax(-1)).all()
    assert layer.detailed(x, warm_up=True).token_mask is None
    again = layer_of(token_keep_rate=0.1).detailed(x, token_mask=after).token_mask
    assert (again.sum(-1) == 3).all()
    assert not (again & ~after).any()


def test_ties_and_strict_connections():
    predictor = MaskPredictor(
        8, num_heads=1, num_tokens=9, reduce_n_factor=2, attn_keep_rate=0.4, basis_threshold=9.0
    ).double()
    q = k = tokens(9, 1, 8)[:, None]
    assert (predictor(q, k).mask[0, 0, 1:].nonzero()[:, 1].view(8, 4) == torch.arange(4)).all()
    strict = MaskPredictor(8, num_heads=1, num_tokens=9, reduce_n_factor=2, basis_threshold=9.0, strict=True).double()
    assert not strict(q, k).mask[:, :, 1:].any()


def test_threshold_connections():
    layer = layer_of(score_threshold=0.2, coef_topk=None, coef_threshold=0.1)
    found = layer.detailed(tokens(), details=True).connectivity
    assert torch.equal(found.mask[:, :, 1:], found.scores > 0.2)
    assert (found.coefficients[found.coefficients > 0] > 0.1).all()
    with pytest.raises(ValueError, match="not a list of a fixed length"):
        layer.mask_predictor.index(*heads(layer, tokens())[:2])
    assert layer(tokens()).isfinite().all()


def test_a_shared_basis_is_one_parameter():
    predictor = MaskPredictor(16, share_inout_proj=True, **PREDICTOR)
    assert predictor.proj_n is predictor.proj_back_n
    assert len(list(predictor.parameters())) == 5


def test_published_sizes():
    """Twelve predictors of Sparsifiner-S have 201,216 parameters."""
    one = MaskPredictor(384, num_heads=6, num_tokens=197, reduce_n_factor=6)
    assert 12 * sum(p.numel() for p in one.parameters()) == 201_216
    assert one.budget == 50


def test_a_dense_layers_weights_lack_the_predictor_alone():
    layer = layer_of(qkv_bias=True)
    dense = {key: value for key, value in layer.state_dict().items() if key.split(".")[0] in ("qkv", "proj")}
    missing, unexpected = layer.load_state_dict(dense, strict=False)
    assert set(missing) == {f"mask_predictor.{name}" for name in layer.mask_predictor.state_dict()}
    assert not unexpected


def test_another_image_size():
    predictor = grown(MaskPredictor(16, **PREDICTOR)).float()
    before = predictor.proj_n.clone()
    resample_predictor(predictor, (5, 5), (8, 10))
    assert predictor.proj_n.shape == (81, 8)
    assert predictor.num_tokens == 81
    torch.testing.assert_close(predictor.proj_n[0] * 80 / 25, before[0])
    q = torch.randn(1, 2, 81, 8)
    assert predictor(q, q).mask.shape == (1, 2, 81, 81)
    same = grown(MaskPredictor(16, share_inout_proj=True, **PREDICTOR)).float()
    before = same.proj_n.clone()
    resample_predictor(same, (5, 5), (5, 5))
    torch.testing.assert_close(same.proj_n, before)
    assert same.proj_n is same.proj_back_n
    with pytest.raises(ValueError, match=r"\(4, 5\) has 20 patches, the predictor 25"):
        resample_predictor(same, (4, 5), (8, 8))


@pytest.mark.parametrize("path", ["gather", "mask"])
def test_capture(path):
    layer, x = layer_of(path=path), tokens()
    with capture(layer) as maps:
        y = layer(x)
    weights, (blocks,) = maps["SparsifinerAttention"], maps.all("SparsifinerAttention", "blocks")
    v = heads(layer, x)[2]
    torch.testing.assert_close(layer.proj((weights.double() @ v).transpose(1, 2).flatten(2)), y, rtol=1e-4, atol=1e-5)
    assert torch.equal(weights > 0, blocks)


def test_dropout_of_the_weights():
    layer, x = layer_of(attn_drop=0.5), tokens()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    with pytest.raises(ValueError, match="mask path only"):
        layer_of(attn_drop=0.5, path="gather")(x)


def test_autocast_and_half_precision():
    layer, x = layer_of().float(), tokens().float()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.isfinite().all()
    assert layer.bfloat16()(x.bfloat16()).isfinite().all()
    assert (y.float() - expected).norm() < 0.2 * expected.norm()  # near ties fall otherwise


def test_what_does_not_fit(unchecked):
    for options, words in (
        ({"num_heads": 3}, "num_heads 3 must divide dim 16"),
        ({"reduce_n_factor": 30}, "leave no basis"),
        ({"reduce_c_factor": 9}, "leave no basis"),
        ({"attn_keep_rate": 0.0}, "above 0 and at most 1"),
        ({"coef_topk": 0}, "at least 1"),
        ({"budget_of": "batch"}, "budget_of is"),
        ({"path": "dense"}, "path is"),
        ({"token_keep_rate": 1.5}, "token_keep_rate"),
    ):
        with pytest.raises(ValueError, match=words):
            layer_of(**options)
    with pytest.raises(ValueError, match=r"26 tokens and 8 channels.*\(2, 2, 20, 8\)"):
        layer_of()(tokens(20))
    with pytest.raises(TypeError):
        layer_of(keep_rate=0.3)


def test_reconstruction_is_zero_where_the_basis_can_hold_the_attention():
    """rank = tokens: a sharp softmax over the basis picks one vector, which holds the teacher's row."""
    predictor = MaskPredictor(8, num_heads=1, num_tokens=9, rank=9, reduce_c_factor=1, scale=1.0).double()
    teacher = torch.randn(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    with torch.no_grad():
        for linear in (predictor.proj_c_q, predictor.proj_c_k):
            linear.weight.copy_(torch.eye(8))
        predictor.proj_n.copy_(torch.eye(9))
        predictor.proj_back_n.copy_(teacher.T)
    k = torch.zeros(1, 1, 9, 8, dtype=torch.float64)
    k[0, 0, 1:] = torch.eye(8)
    found = predictor(k * 1000, k, warm_up=True)
    assert float(sparsifiner_losses.reconstruction([found.scores.detach()], [teacher[None, None]])) < 1e-20


def test_optional_losses():
    masks = [torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1]])[None, None]]
    assert abs(float(sparsifiner_losses.mask_ratio(masks, 0.5)) - (0.25 + 0.0625) / 4) < 1e-7
    assert abs(float(sparsifiner_losses.least_k(masks, 1)) - 2 / 9) < 1e-7
    assert float(sparsifiner_losses.basis_size([torch.tensor([[-1.0, 2.0]])])) == 3
    logits = torch.randn(3, 4)
    assert abs(float(sparsifiner_losses.logit_distillation(logits, logits))) < 1e-6
    for criterion in ("MSE", "KL"):
        assert abs(float(sparsifiner_losses.token_distillation(logits[None], logits[None], criterion=criterion))) < 1e-6
    for criterion in ("CE", "KL"):
        assert sparsifiner_losses.reconstruction([torch.randn(1, 1, 3, 4)], masks, criterion=criterion).isfinite()
    with pytest.raises(ValueError, match="scores of 0 layers"):
        sparsifiner_losses.reconstruction([], [])


class Vit(nn.Module):
    """A DeiT around our attention, under the official names: only what the recorded networks need."""

    def __init__(self, config):
        super().__init__()
        dim, heads = config["embed_dim"], config["num_heads"]
        side = config["img_size"] // config["patch_size"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, config["patch_size"], config["patch_size"])})
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1, dim)),
            nn.Parameter(torch.zeros(1, side**2 + 1, dim)),
        )
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, config["num_classes"])
        self.blocks = nn.ModuleList()
        pruning = config["token_pruning_loc_indicator"]
        for keep, prunes, rate in zip(
            config["attn_keep_rate_list"], pruning, config["token_keep_rate_list"], strict=False
        ):
            options = predictor_options(config | {"attn_keep_rate": keep, "num_tokens": side**2 + 1})
            attn = SparsifinerAttention(
                dim, num_heads=heads, qkv_bias=True, token_keep_rate=rate if prunes else None, **options
            )
            mlp = nn.Sequential()
            mlp.fc1, mlp.act, mlp.fc2 = nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            parts = {
                "norm1": nn.LayerNorm(dim, eps=1e-6),
                "attn": attn,
                "norm2": nn.LayerNorm(dim, eps=1e-6),
                "mlp": mlp,
            }
            self.blocks.append(nn.ModuleDict(parts))

    def forward(self, x, warm_up):
        x = self.patch_embed["proj"](x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        layers, token_mask = [], None
        for block in self.blocks:
            found = block["attn"].detailed(block["norm1"](x), token_mask=token_mask, warm_up=warm_up, details=True)
            token_mask = found.token_mask
            x = x + found.y
            x = x + block["mlp"](block["norm2"](x))
            if token_mask is not None:
                x = torch.cat([x[:, :1], x[:, 1:].masked_fill(~token_mask[..., None], 0)], 1)
            layers.append(found)
        x = self.norm(x)
        return self.head(x[:, 0]), x[:, 1:], layers


@pytest.mark.parametrize("name", ["vit_eval", "vit_eval_tokenpruning", "vit_train_distill", "vit_train_attnrecon"])
def test_recorded_networks_around_our_attention(recorded, name):
    """The networks come later; that they can be put together from this attention and these losses is shown here."""
    case = recorded("sparsifiner", name)
    config, loss = case.config, case.config["cfg"]["LOSS"]
    module = Vit(config)
    module.load_state_dict(case.state_dict)
    module.train(case.mode == "train")
    given, expected = case.input, case.output
    logits, features, layers = module(given["x"], case.mode == "train" and loss["USE_ATTN_RECON"])
    found = {"logits": logits, "features": features}
    for i, layer in enumerate(layers):
        found |= {f"approx_attn.{i}": layer.connectivity.scores, f"attn_mask.{i}": layer.connectivity.mask}
        found |= {f"token_mask.{i}": layer.token_mask}
    if case.mode == "train":
        scores, teacher = (
            [layer.connectivity.scores for layer in layers],
            [given[f"teacher_attn.{i}"] for i in range(len(layers))],
        )
        parts = {
            "cls_loss": loss["CLS"]["WEIGHT"] * sparsifiner_losses.soft_cross_entropy(logits, given["labels"]),
            "token_distill_loss": loss["TOKEN_DISTILL"]["WEIGHT"]
            * sparsifiner_losses.token_distillation(features, given["teacher_tokens"]),
        }
        if loss["USE_CLS_DISTILL"]:
            parts["cls_distill_loss"] = loss["CLS_DISTILL"]["WEIGHT"] * sparsifiner_losses.logit_distillation(
                logits, given["teacher_logits"]
            )
        if loss["USE_ATTN_RECON"]:
            parts["attn_recon_loss"] = loss["ATTN_RECON"]["WEIGHT"] * sparsifiner_losses.reconstruction(scores, teacher)
        if loss["USE_ATTN_SELF_DISTILL"]:
            own = [layer.weights for layer in layers]
            parts["attn_self_distill_loss"] = loss["ATTN_SELF_DISTILL"]["WEIGHT"] * sparsifiner_losses.reconstruction(
                scores, own
            )
        found |= {f"loss.{key}": value for key, value in parts.items()} | {"loss": sum(parts.values())}
        found["loss"].backward()
        for key, gradient in case.grad_state.items():
            ours = dict(module.named_parameters())[key].grad
            torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    for key, value in expected.items():
        if key.startswith(("attn_mask.", "token_mask.")):
            assert torch.equal(found[key], value.bool()), key
        elif key in found:
            torch.testing.assert_close(
                found[key].reshape(value.shape), value, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
            )
