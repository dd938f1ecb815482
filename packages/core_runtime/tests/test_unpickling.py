import pickle

import numpy as np
import pytest

from core_runtime.errors import UserError
from core_runtime.unpickling import read_pickle


class Runs:
    def __reduce__(self):
        return (print, ("executed",))


def written(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_containers_and_arrays_are_read_as_they_were(tmp_path, protocol):
    value = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3], "name": "bätch"}
    if protocol == 5:  # spelled by another function; published lists are older
        del value["data"]
    back = read_pickle(written(tmp_path / "batch", value, protocol), arrays=True)
    assert back["labels"] == [1, 2, 3]
    assert back["name"] == "bätch"
    if "data" in value:
        np.testing.assert_array_equal(np.asarray(back["data"]), value["data"])


def test_nothing_is_executed(tmp_path, capsys):
    with pytest.raises(UserError, match=r"would call (builtins|__builtin__)\.print"):
        read_pickle(written(tmp_path / "batch", {"data": Runs()}), arrays=True)
    assert capsys.readouterr().out == ""


def test_arrays_are_refused_where_lists_alone_are_expected(tmp_path):
    with pytest.raises(UserError, match="would call numpy"):
        read_pickle(written(tmp_path / "batch", np.zeros(3)))


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a readable pickle"):
        read_pickle(written(tmp_path / "batch", np.array([{}, 1], object)), arrays=True)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(list(range(1000)))[:50]])
def test_damaged_files_are_one_line(tmp_path, content):
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable pickle"):
        read_pickle(path)
