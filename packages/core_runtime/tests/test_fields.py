import pytest

from core_runtime.errors import UserError
from core_runtime.fields import read_field, read_names

CONFIG = {"class": "Net", "preprocessing": {"rate": 512, "names": ["a", "b"], "twice": ["a", "a"], "none": None}}


def test_fields_that_are_as_they_should_be():
    assert read_field(CONFIG, "preprocessing.rate", float, where="m", low=1) == 512.0
    assert read_field(CONFIG, "preprocessing.window", int, where="m", default=25) == 25
    assert read_field(CONFIG, "preprocessing.none", int, where="m", default=3) == 3
    assert read_names(CONFIG, "preprocessing.names", where="m") == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "name", "kind", "words"),
    [
        (CONFIG, "preprocessing.window", int, "the field preprocessing.window is missing"),
        (CONFIG, "class.rate", float, "class is 'Net', expected an object"),
        ({"preprocessing": 3}, "preprocessing.rate", float, "preprocessing is 3, expected an object"),
        ([1], "rate", float, r"what it holds is \[1\], expected an object"),
        ({"rate": "fast"}, "rate", float, "rate is 'fast', expected a number"),
        ({"rate": True}, "rate", float, "rate is True, expected a number"),
        ({"rate": float("nan")}, "rate", float, "expected a finite number"),
        ({"rate": 0.5}, "rate", float, "expected at least 1"),
        ({"rate": 2000}, "rate", float, "expected at most 1000"),
        ({"rate": 1.5}, "rate", int, "expected a whole number"),
    ],
)
def test_the_field_is_named(values, name, kind, words):
    with pytest.raises(UserError, match=words):
        read_field(values, name, kind, where="model/config.json", low=1, high=1000)


def test_names_are_different():
    with pytest.raises(UserError, match="different names"):
        read_names(CONFIG, "preprocessing.twice", where="m")
    with pytest.raises(UserError, match="different names"):
        read_names({"classes": [1]}, "classes", where="m")
