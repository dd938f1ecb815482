"""What the tests of mechanisms share."""

import os
from pathlib import Path

import jaxtyping
import pytest

from core_attention.golden_case import SHARED, read_case


@pytest.fixture
def unchecked():
    """Switches the signatures' own shape checks off, so that the errors users see are tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def recorded():
    """``recorded("dma", "doge_lm")``: a golden case of the folder shared beside the checkout; skips where there is none."""

    def find(slug: str, name: str):
        roots = [Path(os.environ[SHARED])] if SHARED in os.environ else []
        roots += [folder / "shared" for folder in Path(__file__).parents]
        for root in roots:
            path = root / "papers" / slug / "golden" / f"{name}.json"
            if path.exists():
                return read_case(path)
        pytest.skip(f"needs shared/papers/{slug}/golden/{name}.json; name the folder in {SHARED}")

    return find
