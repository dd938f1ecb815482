import pytest
import torch

from explainability.attribution.gradients import GradCAM
from explainability.promptcam.blurring import blurred_attention, blurred_logits, rank_heads
from explainability.promptcam.model import PromptCAM
from explainability.promptcam.official import convert, load_adapter, official_adapter

from ..backbones import tiny_vit


def a_model(classes=5, **options):
    size = options.pop("size", 32)
    model = PromptCAM(tiny_vit(size, reg_tokens=options.pop("reg_tokens", 0)), classes, **options)
    torch.manual_seed(1)
    for prompts in (model.prompts, model.generic_prompts):
        if prompts is not None:
            prompts.data.normal_()
    return model.eval()


IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options", [{}, {"variant": "shallow"}, {"num_generic_prompts": 0}, {"num_generic_prompts": 2}, {"reg_tokens": 2}]
)
def test_fast_path_is_the_definition(options):
    model = a_model(**options)
    assert torch.allclose(model(IMAGE), model.definition(IMAGE), atol=1e-5)


def test_gradients_of_fast_path_and_definition_agree_and_reach_prompts_and_head_alone():
    model = a_model()
    probe = torch.randn(2, 5)
    gradients = []
    for forward in (model.forward, model.definition):
        model.zero_grad()
        (forward(IMAGE) * probe).sum().backward()
        assert all(p.grad is None for p in model.backbone.parameters())
        gradients.append([model.prompts.grad.clone(), model.head.weight.grad.clone()])
    for fast, slow in zip(*gradients, strict=True):
        assert torch.allclose(fast, slow, atol=1e-5)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 3 * 5 * 24 + 24 + 1


def test_blurring_changes_one_logit_and_one_row():
    model = a_model()
    logits, blurred = model(IMAGE), blurred_logits(model, IMAGE, [0, 2], 3)
    others = [0, 1, 2, 4]
    assert torch.equal(logits[:, others], blurred[:, others])
    assert not torch.allclose(logits[:, 3], blurred[:, 3])
    before, after = model.last_attention(IMAGE), blurred_attention(model, IMAGE, [0, 2], 3)
    assert torch.equal(after[:, [0, 2], 3], torch.full_like(after[:, [0, 2], 3], 1 / after.shape[-1]))
    changed = (before != after).any(-1)
    assert changed.sum() == 4
    assert torch.equal(before[:, 1], after[:, 1])


def test_greedy_ranking_is_brute_force():
    model, image, target = a_model(), IMAGE[:1], 1
    order, left, scores = [], [0, 1, 2], []
    while left:
        trials = {h: blurred_logits(model, image, [*order, h], target).softmax(1)[0, target].item() for h in left}
        best = max(left, key=lambda h: trials[h])
        order.append(best)
        scores.append(trials[best])
        left.remove(best)
    ranking = rank_heads(model, image, target)
    assert ranking.order == order
    assert ranking.probabilities == pytest.approx(scores, abs=1e-5)
    assert ranking.most_important(2) == order[::-1][:2]


def test_permuting_classes_permutes_logits():
    model = a_model()
    logits, order = model(IMAGE), torch.tensor([3, 0, 4, 1, 2])
    model.prompts.data = model.prompts.data[:, order]
    assert torch.allclose(model(IMAGE), logits[:, order], atol=1e-5)


def test_without_generic_prompts_the_tokens_are_those_of_the_backbone():
    model = a_model(num_generic_prompts=0)
    _, x = model.enter_last(IMAGE)
    from explainability.vit.backbone import embed

    plain = embed(model.backbone, IMAGE)
    for block in model.backbone.blocks[:-1]:
        plain = block(plain)
    assert torch.allclose(x, plain, atol=1e-5)


def test_maps_of_images_that_are_not_square_with_registers():
    model = a_model(size=(32, 48), reg_tokens=3)
    maps = model.class_maps(torch.randn(2, 3, 32, 48), [4, 0])
    assert maps.shape == (2, 2, 3, 4, 6)
    assert torch.allclose(maps[:, 1], model.class_maps(torch.zeros(2, 3, 32, 48), [0])[:, 0]) is False


def test_official_keys_round_trip():
    model, other = a_model(), a_model()
    other.prompts.data.zero_()
    adapter = official_adapter(model)
    assert set(adapter) == {"vpt.prompt_embeddings", "head.weight", "head.bias"}
    load_adapter(other, {f"module.{name}": tensor for name, tensor in adapter.items()})
    assert torch.equal(other(IMAGE), model(IMAGE))
    whole = {
        name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items() if "prompts" not in name
    }
    whole["vpt.prompt_embeddings"] = model.prompts.data
    other.load_state_dict(convert(whole, {}))
    assert torch.equal(other(IMAGE), model(IMAGE))
    with pytest.raises(ValueError, match=r"missing or unexpected: head\.bias"):
        load_adapter(other, {name: tensor for name, tensor in adapter.items() if name != "head.bias"})


def test_what_is_refused():
    from timm.models.resnet import resnet18

    with pytest.raises(ValueError, match="plain vision transformer of timm"):
        PromptCAM(resnet18(), 3)
    with pytest.raises(ValueError, match="at least one class"):
        PromptCAM(tiny_vit(), 0)
    with pytest.raises(ValueError, match="class 9 of a model of 5"):
        rank_heads(a_model(), IMAGE[:1], 9)
    with pytest.raises(ValueError, match="evaluation mode"):
        rank_heads(a_model().train(), IMAGE[:1], 0)


def test_dropout_of_prompts_differs_between_samples_in_training():
    model = a_model(dropout=0.5).train()
    same = IMAGE[:1].expand(2, -1, -1, -1)
    logits = model(same)
    assert not torch.allclose(logits[0], logits[1])


def test_kept_prompts_change_nothing_and_are_forgotten():
    model = a_model()
    with torch.no_grad():
        before = model(IMAGE)
        model.keep_prompts()
        assert torch.equal(model(IMAGE), before)
        model.prompts.data.normal_()
        assert torch.allclose(model.train().eval()(IMAGE), model.definition(IMAGE), atol=1e-5)
        model.keep_prompts()
        assert model.double()(IMAGE.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="evaluation mode"):
        model.train().keep_prompts()


def test_gradcam_weighs_the_image_not_the_prompts():
    # ten prompts would pass for a class token and 3 × 3 patches
    prompted = PromptCAM(tiny_vit(), 10).eval()
    together = GradCAM(prompted).attribute(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).values
    assert together.shape == (2, 4, 4)
