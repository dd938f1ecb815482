import pytest
import torch
import torch.nn.functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.csa_action.class_semantics import CSABlock, definition

R = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FEATURES = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def block(**options):
    torch.manual_seed(0)
    return CSABlock(5, 4, **{"hidden": 8, "reduction": 2, **options}).double()


@pytest.mark.parametrize("fuse", ["sum", "max", "product"])
def test_fusions_are_their_definition_and_gates_lie_between_0_and_1(fuse):
    module = block(fuse=fuse)
    a_c, a_t = module.gates(R, 9)
    assert a_c.shape == (2, 4, 1)
    assert a_t.shape == (2, 1, 9)
    assert all(((a > 0) & (a < 1)).all() for a in (a_c, a_t))
    torch.testing.assert_close(module(R, FEATURES), definition(module, R, FEATURES))


def test_zero_weights_return_the_features():
    module = block()
    for p in module.parameters():
        torch.nn.init.zeros_(p)
    assert torch.equal(module(R, FEATURES), FEATURES)


def test_padding_counts_in_no_mean_and_closes_time():
    module, mask = block(), torch.ones(2, 9, dtype=torch.bool)
    mask[0, 6:] = False
    a_c, a_t = module.gates(R, 9, mask)
    assert (a_t[0, 0, 6:] == 0).all()
    u = torch.relu(module.channel.conv(R))[0, :, :6].mean(1)
    want = torch.sigmoid(module.channel.fc2(torch.relu(module.channel.fc1(u))))
    torch.testing.assert_close(a_c[0, :, 0], want)
    torch.testing.assert_close(module.gates(R, 9)[0][1], a_c[1])
    assert module(R, FEATURES, mask=torch.zeros(2, 9, dtype=torch.bool)).isfinite().all()


def test_semantics_of_another_length_are_resized():
    module = block()
    resized = F.interpolate(R, size=14, mode="linear")
    f = torch.randn(2, 4, 14, dtype=torch.float64)
    torch.testing.assert_close(module(R, f), module(resized, f))


def test_time_shift_away_from_the_borders():
    module = block()
    r, f = torch.zeros(1, 5, 24, dtype=torch.float64), torch.zeros(1, 4, 24, dtype=torch.float64)
    r[..., 8:12], f[..., 8:12] = R[:1, :, :4], FEATURES[:1, :, :4]
    torch.testing.assert_close(module(r.roll(3, 2), f.roll(3, 2)), module(r, f).roll(3, 2))


def test_complementary_squeeze_excitation():
    module = block(self_se=True)
    gated = FEATURES * module.se(FEATURES.mean(2))[..., None]
    plain = block()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("se.")})
    torch.testing.assert_close(module(R, FEATURES), plain(R, gated))


def test_gates_on_request():
    module = block()
    with capture(module) as maps:
        module(R, FEATURES)
    assert maps.kinds("CSABlock") == ("gates.channel", "gates.time")
    torch.testing.assert_close(maps.all("CSABlock", "gates.time")[0][:, 0], module.gates(R, 9)[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((R[:, :4], FEATURES), r"R \(batch, 5, time\), got \(2, 4, 9\)"),
        ((R[:1], FEATURES), r"F \(1, 4, time\) beside R \(1, 5, 9\), got \(2, 4, 9\)"),
        ((R[..., :0], FEATURES), r"got \(2, 5, 0\)"),
        ((R, FEATURES[0]), r"got \(4, 9\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes(given, message):
    with pytest.raises(ValueError, match=message):
        block()(*given)
    with pytest.raises(ValueError, match=r"bool mask \(2, 9\)"):
        block()(R, FEATURES, mask=torch.ones(2, 8, dtype=torch.bool))


def test_unknown_options():
    with pytest.raises(ValueError, match="one of sum, max, product"):
        block(fuse="mean")
    with pytest.raises(ValueError, match="odd kernel_size"):
        block(kernel_size=2)
