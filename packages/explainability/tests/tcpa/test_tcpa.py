import pytest
import torch

from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts
from explainability.tcpa.model import TCPA

from ..backbones import tiny_vit

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def a_model(**options):
    sizes = {"cls_entries": 4, "image_entries": 5, "cls_k": 2, "image_k": 2, "dropout": 0.0, **options}
    backbone = tiny_vit(num_classes=3)
    torch.manual_seed(2)
    return TCPA(backbone, 3, TokenCoordinatedPrompts(3, 24, **sizes)).eval()


def masks_and_distance(model):
    return model.masks(IMAGE), model.coordinate(IMAGE).distance


def test_taking_the_whole_pool_is_the_role_only_variant():
    whole, roles = a_model(cls_k=4, image_k=5), a_model(cls_k=None, image_k=None)
    roles.load_state_dict(whole.state_dict())
    assert torch.allclose(whole(IMAGE), roles(IMAGE), atol=1e-6)
    for a, b in zip(whole.masks(IMAGE), roles.masks(IMAGE), strict=True):
        assert torch.equal(a, b)
    assert whole.coordinate(IMAGE).distance > 0
    assert roles.coordinate(IMAGE).distance == 0


def test_without_prompts_it_is_the_plain_transformer():
    model = a_model(cls_entries=0, image_entries=0)
    plain = model.backbone.norm(torch.nn.Sequential(*model.backbone.blocks)(_tokens(model)))[:, 0]
    assert torch.allclose(model(IMAGE), model.head(plain), atol=1e-5)


def _tokens(model):
    from explainability.vit.backbone import embed

    return embed(model.backbone, IMAGE)


def test_keys_learn_from_the_distance_alone():
    model = a_model()
    result = model.coordinate(IMAGE)
    of_loss = torch.autograd.grad(
        result.logits.square().sum(),
        [model.prompts.cls.keys, model.prompts.image.keys],
        retain_graph=True,
        allow_unused=True,
    )
    assert all(gradient is None or not gradient.any() for gradient in of_loss)
    (of_distance,) = torch.autograd.grad(result.distance, [model.prompts.image.prompts])
    assert not of_distance[-1].any()  # the last layer's prompts come after its matching
    assert of_distance[0].any()


def test_permuting_a_pool_changes_nothing_for_plain_prompts():
    for fourier in (False, True):
        model = a_model(use_fourier=fourier)
        logits, order = model(IMAGE), torch.tensor([2, 0, 4, 1, 3])
        for parameter in (model.prompts.image.keys, model.prompts.image.prompts):
            parameter.data = parameter.data[:, order]
        assert torch.allclose(model(IMAGE), logits, atol=1e-5) is not fourier


def test_masks_follow_the_roles():
    for mask in a_model().masks(IMAGE):
        assert mask[:, 0, :4].sum(-1).tolist() == [2, 2]
        assert not mask[:, 0, 4:].any()
        assert not mask[:, 1:, :4].any()
        assert (mask[:, 1:, 4:].sum(-1) == 2).all()


def test_other_grids_batch_of_one_and_autocast():
    backbone = tiny_vit((16, 48))
    model = TCPA(backbone, 3, TokenCoordinatedPrompts(3, 24, cls_entries=4, image_entries=4, cls_k=1, image_k=1)).eval()
    image = torch.randn(1, 3, 16, 48)
    full = model(image)
    assert full.shape == (1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(image).float(), full, atol=0.2)


def test_backbone_stays_in_evaluation_mode_and_frozen():
    model = a_model().train()
    assert model.prompts.training
    assert not model.backbone.training
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_backbones_that_norm_their_queries_are_refused():
    with pytest.raises(ValueError, match="norms its queries"):
        TCPA(tiny_vit(qk_norm=True), 3, TokenCoordinatedPrompts(3, 24))
