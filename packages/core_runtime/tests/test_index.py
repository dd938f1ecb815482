"""Nearest neighbours in one safe file."""

import numpy as np
import pytest

from core_runtime import index as module
from core_runtime.errors import UserError
from core_runtime.index import Index, load_index, save_index


def unit(count, dim=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(count):
    return tuple(f"n{number:03}" for number in range(count))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_search_is_exact_in_any_chunks(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    vectors = unit(50)
    found = Index(names(50), vectors).nearest(vectors[:3], 5)
    for row, answer in enumerate(found):
        order = np.argsort(-(vectors[row] @ vectors.T), kind="stable")[:5]
        assert [name for name, _ in answer] == [f"n{number:03}" for number in order]
        assert answer[0][1] == pytest.approx(1, abs=1e-6)


def test_of_equal_ones_the_earlier_and_a_query_is_not_its_own_answer():
    vectors = np.repeat(unit(1), 4, 0)
    index = Index(names(4), vectors)
    assert [name for name, _ in index.nearest(vectors[:1], 2)[0]] == ["n000", "n001"]
    assert [name for name, _ in index.nearest(vectors[:1], 2, leave_out=["n000"])[0]] == ["n001", "n002"]
    assert len(index.nearest(vectors[:1], 99)[0]) == 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_holds_vectors_names_and_what_they_were_made_from(tmp_path, dtype):
    index = Index(
        names(5), unit(5).astype(dtype), {"model": {"digest": "x"}, "instruction": "colour?"}, {"folder": "/p"}
    )
    path = save_index(index, tmp_path / "i.safetensors")
    read = load_index(path, made_from={"instruction": "colour?", "model": {"digest": "x"}})
    assert read.names == index.names
    assert read.vectors.dtype == dtype
    np.testing.assert_array_equal(read.vectors, index.vectors)
    assert read.facts == {"folder": "/p"}
    with pytest.raises(UserError, match=r"another instruction \(colour\?, now shape\?\)"):
        load_index(path, made_from={"instruction": "shape?", "model": {"digest": "x"}})


def test_what_is_no_index_is_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(UserError, match="no such index"):
        load_index(tmp_path / "absent")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="is damaged"):
        load_index(tmp_path / "noise")
    save_file({"x": unit(2)}, tmp_path / "other")
    with pytest.raises(UserError, match="not an index of ours"):
        load_index(tmp_path / "other")
    vectors = unit(2)
    vectors[0, 0] = np.nan
    save_index(Index(names(2), vectors), tmp_path / "nan")
    with pytest.raises(UserError, match="not finite"):
        load_index(tmp_path / "nan")
    with pytest.raises(ValueError, match="all different"):
        Index(("a", "a"), unit(2))
    with pytest.raises(ValueError, match="queries of 3 numbers"):
        Index(names(2), unit(2)).nearest(np.ones((1, 3)), 1)
