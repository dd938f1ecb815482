"""The network against its definition, and the limits that the paper and its code give."""

import math

import numpy as np
import pytest
import torch

from vision_models.actions.metrics.recall import average_recall
from vision_models.actions.model.bmn import BMN, BMNConfig
from vision_models.actions.model.cells import Cells, Sampling, dense_mask
from vision_models.actions.model.declaration import system
from vision_models.actions.model.loss import balanced_cross_entropy, bmn_loss
from vision_models.actions.model.official import convert, without_prefix
from vision_models.actions.model.proposals import candidates_of, soft_nms
from vision_models.actions.model.targets import Targets, targets_of

SMALL = {"channels": 8, "steps": 11, "bins": 4, "points": 2, "hidden": 8, "map_3d": 12, "map_2d": 6}


def published_mask(steps: int, bins: int, points: int, ratio: float) -> np.ndarray:
    """The mask by the loops that the specification describes, one point after another."""
    mask = np.zeros((steps, bins, steps, steps))
    for start in range(steps):
        for end in range(start, steps):
            length = end + 1 - start + 1
            low, high = start - ratio * length, end + 1 + ratio * length
            for number in range(bins * points):
                point = low + (high - low) / (bins * points - 1) * number
                share, whole = math.modf(point)
                for step, weight in ((int(whole), 1 - share), (math.ceil(point), share)):
                    if 0 <= step < steps and point > -1:
                        mask[step, number // points, start, end] += weight / points
    return mask.reshape(steps, -1)


@pytest.mark.parametrize(("steps", "bins", "points", "ratio"), [(9, 4, 2, 0.25), (12, 5, 3, 0.5), (7, 3, 1, 1.0)])
def test_the_sparse_matrix_is_the_published_mask(steps, bins, points, ratio):
    made = dense_mask(Cells(steps, steps), Sampling(bins, points, ratio))
    assert np.abs(made.numpy() - published_mask(steps, bins, points, ratio)).max() < 1e-6


@pytest.mark.parametrize("layout", ["start_end", "duration_start"])
@pytest.mark.parametrize("longest", [None, 6])
@pytest.mark.parametrize("widened", [True, False])
def test_the_fused_layer_is_the_published_form(layout, longest, widened):
    torch.manual_seed(0)
    config = BMNConfig(**SMALL, layout=layout, longest=longest, widened=widened, pem_channels=5)
    layer = BMN(config).double().matching
    x = torch.randn(3, 5, 11, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(3, 6, *config.cells.shape, dtype=torch.float64)
    results = []
    for form in (layer.forward, layer.definition):
        out = form(x)
        results.append((out, *torch.autograd.grad((out * probe).sum(), [x, *layer.parameters()])))
    for fused, published in zip(*results, strict=True):
        torch.testing.assert_close(fused, published)


def test_devices_without_sparse_matrices_get_the_same():
    layer = BMN(BMNConfig(**SMALL)).matching
    y = torch.randn(44, 12)
    from vision_models.actions.model.cells import Reading

    parts = [getattr(layer, f"part{number}") for number in range(6)]
    torch.testing.assert_close(layer._dense(y), Reading.apply(y, parts))


def test_second_derivatives_go_through_the_layer():
    layer = BMN(BMNConfig(**SMALL)).double().matching
    x = torch.randn(1, 8, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square().sum(), (x,), atol=1e-4)


def test_the_full_network_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in BMN().parameters()) == 4_978_564


def official_names() -> dict[str, tuple[int, ...]]:
    names = {"sample_mask": (100, 320000)}
    shapes = {"x_1d_b.0": (256, 100, 3), "x_1d_b.2": (256, 64, 3), "x_1d_s.0": (256, 64, 3), "x_1d_s.2": (1, 256, 1)}
    shapes |= {"x_1d_e.0": (256, 64, 3), "x_1d_e.2": (1, 256, 1), "x_1d_p.0": (256, 256, 3)}
    shapes |= {"x_3d_p.0": (512, 256, 32, 1, 1), "x_2d_p.0": (128, 512, 1, 1), "x_2d_p.2": (128, 128, 3, 3)}
    shapes |= {"x_2d_p.4": (128, 128, 3, 3), "x_2d_p.6": (2, 128, 1, 1)}
    for name, shape in shapes.items():
        names |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return names


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_checkpoints_load_strictly(prefix):
    state = {prefix + name: torch.zeros(shape) for name, shape in official_names().items()}
    assert isinstance(system.components["BMN"].load({}, state), BMN)
    del state[prefix + "x_1d_s.2.bias"]
    with pytest.raises(ValueError, match=r"start\.2\.bias"):
        system.components["BMN"].load({}, state)


def test_a_mask_of_another_number_of_steps_is_named():
    with pytest.raises(ValueError, match="sample_mask is"):
        convert({"sample_mask": torch.zeros(100, 320000)}, {"temporal_scale": 64})
    assert without_prefix({"module.a": torch.zeros(1)}).keys() == {"a"}


@pytest.mark.parametrize("csa", ["base", "convs"])
def test_open_gates_of_csa_leave_the_network_as_it_is(csa):
    torch.manual_seed(1)
    plain, gated = BMN(BMNConfig(**SMALL)), BMN(BMNConfig(**SMALL, csa=csa))
    gated.load_state_dict(plain.state_dict(), strict=False)
    for parameter in gated.gates.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 11)
    for one, other in zip(plain(x), gated(x), strict=True):
        torch.testing.assert_close(one, other)


def test_a_shift_of_the_input_shifts_the_output():
    torch.manual_seed(0)
    config = BMNConfig(**SMALL | {"steps": 40}, margin=0.25)
    model = BMN(config).double()
    x = torch.zeros(1, 8, 40, dtype=torch.float64)
    x[:, :, 15:19] = torch.randn(8, 4)
    shifted = torch.roll(x, 3, dims=2)
    before, after = model(x), model(shifted)
    torch.testing.assert_close(before.start[:, 10:25], after.start[:, 13:28])
    torch.testing.assert_close(before.confidence[..., 12:20, 14:22], after.confidence[..., 15:23, 17:25])


def test_features_of_another_shape_are_quoted():
    with pytest.raises(ValueError, match=r"\(batch, 8, 11\), got \(1, 8, 12\)"):
        BMN(BMNConfig(**SMALL))(torch.randn(1, 8, 12))
    with pytest.raises(ValueError, match="channels is 10"):
        BMNConfig(channels=10, hidden=8)


def stacked(*targets: Targets) -> Targets:
    return Targets(*(torch.stack(parts) for parts in zip(*targets, strict=True)))


def test_cells_that_end_before_they_start_do_not_count():
    cells = Cells(11, 11)
    targets = stacked(targets_of(np.array([[0.1, 0.5]]), cells))
    confidence, edges = torch.rand(1, 2, 11, 11), torch.rand(1, 11)
    draws = torch.rand(1, 11, 11), torch.rand(1, 11, 11)
    other = confidence.clone()
    other[:, :, *torch.tril_indices(11, 11, -1)] = 0.9
    one, two = (bmn_loss(c, edges, edges, targets, cells, draws=draws).total for c in (confidence, other))
    assert one == two


@pytest.mark.parametrize("segments", [[], [[0.0, 1.0]], [[0.2, 0.21]]])
def test_batches_without_a_positive_have_a_finite_loss(segments):
    cells = Cells(11, 11)
    targets = stacked(targets_of(np.array(segments).reshape(-1, 2), cells))
    confidence = torch.rand(1, 2, 11, 11, requires_grad=True)
    edges = torch.rand(1, 11, requires_grad=True)
    loss = bmn_loss(confidence, edges, edges, targets, cells).total
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(confidence.grad).all()


@pytest.mark.slow
@pytest.mark.parametrize("csa", ["none", "base"])
def test_two_videos_with_planted_actions_are_learned_by_heart(csa):
    """The specification's check: average recall over proposals (AUC) above 95 %."""
    steps, truth = 40, [np.array([[4, 12], [20, 34]]), np.array([[8, 16], [25, 30]])]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 8, steps)) * 0.1
    for video, segments in enumerate(truth):
        for start, end in segments:
            features[video, :4, start:end] += 1  # a boxcar
    torch.manual_seed(0)
    config = BMNConfig(**SMALL | {"steps": steps, "bins": 8, "hidden": 32, "map_3d": 32, "map_2d": 16}, csa=csa)
    model, x = BMN(config), torch.from_numpy(features).float()
    targets = Targets(*map(torch.stack, zip(*(targets_of(own / steps, config.cells) for own in truth), strict=True)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        output = model(x)
        optimizer.zero_grad()
        bmn_loss(output.confidence, output.start, output.end, targets, config.cells).total.backward()
        optimizer.step()
    with torch.inference_mode():
        output = model(x)
    found = []
    for video in range(2):
        maps = (output.confidence[video].numpy(), output.start[video].numpy(), output.end[video].numpy())
        proposed = candidates_of(*maps, config.cells)
        order, scores = soft_nms(*proposed)
        found += [(video, *proposed.segments[index], score) for index, score in zip(order, scores, strict=True)]
    own = [(video, *segment) for video, segments in enumerate(truth) for segment in segments / steps]
    assert average_recall(np.array(own), np.array(found)).auc > 0.95


@pytest.mark.parametrize("positives", [1, 2, 3])
def test_positives_and_negatives_weigh_the_same(positives):
    positive = (torch.arange(8) < positives).float()
    probability = torch.where(positive > 0, 0.9, 0.6)
    loss = balanced_cross_entropy(probability, positive, torch.ones(8))
    assert loss.item() == pytest.approx(-(np.log(0.9) + np.log(0.4)) / 2, rel=1e-4)
