import pytest
from newdomain.samples import make_samples
from newdomain.signals.reading import WINDOW, read_signal

from core_runtime.errors import UserError


def test_samples_read_back(tmp_path):
    paths = make_samples(tmp_path, count=2)
    assert read_signal(paths[0]).windows().shape == (512 // WINDOW, WINDOW)


@pytest.mark.parametrize("body", ["", "1,2\n", "a,b\n" * 40, "0,nan\n" * 40, "1\n" * 40])
def test_unusable_signals_are_named(tmp_path, body):
    (tmp_path / "x.csv").write_text("seconds,value\n" + body)
    with pytest.raises(UserError, match=r"x\.csv"):
        read_signal(tmp_path / "x.csv")
