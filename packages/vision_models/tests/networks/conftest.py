"""Small networks of every family, under the names of large ones: options that replace theirs."""

import pytest
import torch

SMALL = {
    "biformer_tiny": {"depth": (1, 1, 2, 1), "embed_dim": (16, 32, 48, 64), "head_dim": 16, "topks": (1, 2, 4, -2)},
    "biformer_stl": {"depth": (1, 1, 1, 1), "embed_dim": (16, 32, 32, 64), "head_dim": 16, "topks": (1, 2, 4, -2)},
    "biformer_stl_nchw": {"depth": (1, 1, 1, 1), "embed_dim": (16, 32, 32, 64), "head_dim": 16, "topks": (1, 2, 4, -1)},
    "suite_davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48), "num_heads": (2, 3, 4, 6)},
    "suite_davit_base_fl": {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48), "num_heads": (2, 3, 4, 6)},
    "dhvt_tiny_cifar_patch4": {"embed_dim": 32, "depth": 3},
    "suite_mambaout_femto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "suite_mambaout_base_wide_rw": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "moh_vit_s80": {
        "depths": (1, 1, 2, 1),
        "embed_dims": (16, 24, 32, 48),
        "num_heads": (2, 4, 4, 6),
        "shared": (2, 1, 2, 0),
        "routed": (0, 2, 1, 4),
        "img_size": 64,
    },
    "ravlt_t": {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48), "num_heads": (1, 2, 2, 3), "projection": 24},
    "sparsifiner_s": {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 64},
    "sparsifiner_lvvit_s": {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 64},
    "t2t_vit_t_14": {"embed_dim": 24, "depth": 3, "num_heads": 3, "token_dim": 16, "img_size": 64},
    "t2t_vit_t_14_scatterbrain": {"embed_dim": 24, "depth": 3, "num_heads": 3, "token_dim": 16, "img_size": 64},
    "mobilenetv2_ulsam_14_17": {},
}


@pytest.fixture(params=SMALL)
def name(request) -> str:
    """The name of a network."""
    return request.param


@pytest.fixture(scope="session")
def small() -> dict[str, dict]:
    """The options of each small network."""
    return SMALL


@pytest.fixture
def options(name) -> dict:
    """What makes it small."""
    return dict(SMALL[name])


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test begins with the same random numbers."""
    torch.manual_seed(0)
