"""The two weight rules against the check values of their description."""

import numpy as np
import pytest

from core_attention.golden.replay import generate

MIX32_SHAPES = {
    "a.bn.bias": [5],
    "a.bn.num_batches_tracked": [],
    "a.bn.running_mean": [5],
    "a.bn.running_var": [5],
    "a.bn.weight": [5],
    "affine.alpha": [1, 5, 1, 1],
    "affine.beta": [1, 5, 1, 1],
    "b.weight": [2, 3, 2, 2],
    "pos_embed": [1, 2, 4],
    "t": [],
}
MIX32 = {
    "a.bn.bias": [-0.1963519, -0.1016469, 0.04873212, 0.05254961, 0.04487674],
    "a.bn.running_mean": [0.2890267, 0.2204163, 0.06413982, 0.2244281, -0.1212585],
    "a.bn.running_var": [1.088331, 1.614998, 1.314818, 1.695572, 0.8540745],
    "a.bn.weight": [0.61383, 1.000783, 1.294948, 0.7179376, 0.6155591],
    "affine.alpha": [1.23723, 1.223763, 1.214627, 0.7254212, 1.181622],
    "b.weight": [-0.2769937, -0.05960397, -0.2561277, -0.6448403, 0.03409165],
    "pos_embed": [-0.08432381, -0.2042039, 0.3685944, -0.2186054, 0.3377039],
    "t": [0.3389378],
}
SIN_CRC32_SHAPES = {
    "conv1.weight": [4, 3, 2, 2],
    "bn1.weight": [5],
    "bn1.bias": [5],
    "bn1.running_mean": [5],
    "bn1.running_var": [5],
    "bn1.num_batches_tracked": [],
    "attn.gamma": [1],
}
SIN_CRC32 = {
    "conv1.weight": [-0.3159268, 0.3084241, -0.30308, 0.07243592, 0.4184356],
    "bn1.weight": [0.8737357, 0.9987591, 0.9919494, 0.7518885, 1.305889],
    "bn1.bias": [-0.1861895, -0.01741292, 0.06836815, -0.1843509, 0.1349431],
    "bn1.running_mean": [-0.1690345, -0.08966081, 0.03093269, -0.00895281, -0.1093766],
    "bn1.running_var": [1.485172, 0.6647003, 0.7802015, 1.43703, 0.940123],
    "attn.gamma": [0.6197049],
}


@pytest.mark.parametrize(
    ("rule", "shapes", "expected", "counter"),
    [("mix32", MIX32_SHAPES, MIX32, 7), ("sin-crc32", SIN_CRC32_SHAPES, SIN_CRC32, 0)],
)
def test_check_values(rule, shapes, expected, counter):
    state = generate(rule, shapes, gain=1.3)
    assert list(state) == sorted(shapes)
    for key, values in expected.items():
        assert state[key].dtype == np.float32
        assert list(state[key].shape) == shapes[key]
        np.testing.assert_allclose(state[key].ravel()[:5], values, rtol=2e-6)
    (tracked,) = (key for key in shapes if key.endswith("num_batches_tracked"))
    assert state[tracked].dtype == np.int64
    assert state[tracked].shape == ()
    assert state[tracked] == counter


def test_the_order_of_the_shapes_does_not_matter():
    state, reordered = generate("mix32", MIX32_SHAPES), generate("mix32", dict(reversed(MIX32_SHAPES.items())))
    for key, values in state.items():
        np.testing.assert_array_equal(values, reordered[key])


def test_the_first_scale_pattern_that_matches_is_used_and_dots_match():
    plain = generate("sin-crc32", SIN_CRC32_SHAPES)
    scaled = generate("sin-crc32", SIN_CRC32_SHAPES, scale={"*n1.weight": 0.5, "bn1.*": 3.0})
    np.testing.assert_allclose(scaled["bn1.weight"], 0.5 * plain["bn1.weight"], rtol=1e-6)
    np.testing.assert_allclose(scaled["bn1.bias"], 3.0 * plain["bn1.bias"], rtol=1e-6)
    np.testing.assert_array_equal(scaled["conv1.weight"], plain["conv1.weight"])
    assert scaled["bn1.num_batches_tracked"] == 0


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(ValueError, match=r"mix33.*mix32, sin-crc32"):
        generate("mix33", {})


def test_an_empty_tensor_is_made_empty():
    assert generate("mix32", {"w": [0, 3]})["w"].shape == (0, 3)
