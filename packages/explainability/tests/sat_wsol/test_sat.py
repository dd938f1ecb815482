import numpy as np
import pytest
import torch

from explainability.sat_wsol.boxes import (
    best_iou,
    box_at,
    iou,
    largest_box,
    max_box_acc,
    normalise_map,
    pxap,
    to_crop,
)
from explainability.sat_wsol.model import SAT, Located, gate, gated_attention
from explainability.sat_wsol.official import convert

from ..backbones import tiny_vit

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def a_model(**options):
    backbone = tiny_vit(depth=4, **options)
    torch.manual_seed(3)
    return SAT(backbone, 3).eval()


def test_values_scaled_is_attention_scaled():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind(0)
    m = gate(q, k)
    explicit = (torch.softmax(q @ k.mT * 8**-0.5, -1) * m[:, None, None]) @ v
    assert torch.allclose(gated_attention(q, k, v, m), explicit, atol=1e-5)
    by_definition = torch.sigmoid((q @ k.mT * 8**-0.5).mean(1)[:, -1])
    assert torch.allclose(m, by_definition, atol=1e-6)


def test_without_gated_blocks_it_is_the_backbone_with_one_more_token():
    backbone = tiny_vit(depth=4)
    model = SAT(backbone, 3, spatial_blocks=[]).eval()
    from explainability.vit.backbone import embed

    x = torch.cat([embed(backbone, IMAGE), (model.loc_token + model.loc_embed).expand(2, -1, -1)], 1)
    patches = backbone.norm(backbone.blocks(x))[:, 1:-1]
    assert torch.allclose(model.locate(IMAGE).patches, patches, atol=1e-5)


def test_map_lies_between_0_and_1_and_follows_the_grid():
    backbone = tiny_vit((16, 40))
    located = SAT(backbone, 3).eval().locate(torch.randn(2, 3, 16, 40))
    assert located.map.shape == (2, 2, 5)
    assert ((located.map > 0) & (located.map < 1)).all()


def test_area_loss_is_of_the_whole_batch():
    model = a_model()
    maps = torch.tensor([0.1, 0.4])[:, None, None].expand(2, 4, 4)
    losses = model.losses(Located(torch.zeros(2, 3), maps, maps, maps), torch.tensor([0, 1]), area=0.25)
    rest = losses.total - losses.classification - losses.norm.mean()
    assert rest.item() == pytest.approx(0, abs=1e-6)


def test_norm_term_of_a_constant_map():
    model, c = a_model(), 0.3
    maps = torch.full((1, 6, 6), c)
    norm = model.losses(Located(torch.zeros(1, 3), maps, maps, maps), torch.tensor([0])).norm
    smoothed = torch.nn.functional.conv2d(maps[:, None], model.smoothing, padding=1)
    assert torch.allclose(smoothed[0, 0, 1:-1, 1:-1], torch.tensor(c))
    assert norm.item() == pytest.approx((smoothed * (1 - smoothed)).mean().item())


def test_kernel():
    kernel = a_model().smoothing
    assert kernel.sum().item() == pytest.approx(1)
    assert torch.equal(kernel, kernel.mT)
    assert kernel[0, 0].flatten().tolist()[:2] == pytest.approx([0.0026, 0.0460], abs=5e-5)
    assert not kernel.requires_grad
    assert "smoothing" in a_model().state_dict()


def test_boxes_of_small_maps():
    values = np.zeros((10, 10))
    values[1:3, 1:3], values[5:9, 4:8] = 1, 1
    assert box_at(values, 0.5) == (4, 5, 8, 9)
    diagonal = np.zeros((5, 5), bool)
    diagonal[1, 1] = diagonal[2, 2] = True
    assert largest_box(diagonal) == (1, 1, 3, 3)
    assert largest_box(np.zeros((4, 6), bool)) == (0, 0, 6, 4)
    single = np.zeros((5, 5), bool)
    single[3, 1] = True
    assert largest_box(single) == (1, 3, 2, 4)
    two = np.zeros((5, 5), bool)
    two[0, 4] = two[4, 0] = True
    assert largest_box(two) == (4, 0, 5, 1)  # the first of equals


def test_box_of_the_whole_image():
    assert to_crop((0, 0, 640, 480), 640, 480) == (0, 0, 223, 223)


def test_overlap_counts_pixels():
    assert iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert iou((0, 0, 0, 0), (1, 0, 1, 0)) == 0
    assert best_iou((0, 0, 9, 9), [(20, 20, 29, 29), (0, 0, 9, 4)]) == pytest.approx(0.5)


def test_max_box_acc_takes_the_threshold_of_the_data_set():
    # each image would be found at a threshold of its own, but at none are both
    high, low = np.zeros((20, 20)), np.zeros((20, 20))
    high[:] = 0.5
    high[0, 0], high[5:10, 5:10] = 0, 1
    low[0, 0] = 1
    low[5:10, 5:10] = 0.3
    truth = [[(5, 5, 9, 9)], [(5, 5, 9, 9)]]
    assert max_box_acc([high, low], truth) == 0.5
    assert max_box_acc([high], truth[:1]) == max_box_acc([low], truth[:1]) == 1


def test_pxap_of_a_perfect_and_an_inverted_map():
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    assert pxap([mask.astype(float)], [mask]) == pytest.approx(1)
    assert pxap([(~mask).astype(float)], [mask]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="pixels of an object"):
        pxap([mask.astype(float)], [np.zeros_like(mask)])


def test_constant_maps_are_normalised_without_nan():
    assert normalise_map(torch.full((1, 4, 4), 0.3), (8, 8)).isfinite().all()


def test_published_keys_with_prefix():
    model = a_model()
    names = {"loc_token": "loc_token", "loc_embed": "loc_embed", "smoothing": "weight"}
    official = {}
    for name, tensor in model.state_dict().items():
        official["module." + names.get(name, name.removeprefix("backbone."))] = tensor
    model.load_state_dict(convert(official, {}))


def test_registers_are_refused():
    with pytest.raises(ValueError, match="CLS alone"):
        SAT(tiny_vit(reg_tokens=2), 3)
