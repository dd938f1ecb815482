"""Every mechanism of the catalogue can be shown and timed, and equals the reference that it declares."""

import sys
from pathlib import Path

import pytest

from core_attention.measuring import bench
from core_attention.registry.catalogue import declared, papers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

MECHANISMS = declared("examples")
PAPERS = papers()


@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanism(name):
    entry = MECHANISMS[name]
    assert entry.slug in PAPERS
    assert (ROOT / "docs" / "mechanisms" / (entry.page or "")).is_file(), f"{name}: no page {entry.page}"
    made = bench.example(name, 50)
    assert 25 <= made.tokens <= 100, f"{name}: {made.tokens} tokens where about 50 were asked for"
    for tokens in (1, 50):
        (row,) = bench.bench(name, [tokens], rounds=1)  # raises where module and reference disagree
    runs = bench.contestants(made, backward=True)
    runs["module"]()
    assert float(row["MACs"]) > 0


def test_the_page_of_systems_is_what_is_declared():
    """``uv run python scripts/systems.py`` writes it again."""
    import systems

    assert systems.table() in systems.PAGE.read_text(encoding="utf-8")
    assert systems.table().count("\n") == len(PAPERS) + 1
