"""Model folders: what config.json must hold, and what ``--model`` names."""

import json

import pytest
import torch

from core_runtime.errors import UserError
from ieeg.model.folder import choose, load_model, save_model
from ieeg.model.mvpformer import build

SMALL = {
    "segment": 64,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "inner": 16,
    "positions": 16,
    "channels": 12,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save_model(
        build("s", **SMALL, classes=2).eval(),
        tmp_path / "model",
        rate=64.0,
        window=5,
        threshold=0.7,
        preparing={"reference": "bipolar", "exclude": ("A1",), "channels": 8},
    )


def test_what_is_saved_is_read_back(folder):
    loaded = load_model(folder)
    assert (loaded.rate, loaded.window, loaded.threshold) == (64.0, 5, 0.7)
    settings = loaded.settings
    assert (settings.rate, settings.segment, settings.reference, settings.exclude, settings.channels) == (
        64,
        1,
        "bipolar",
        ("A1",),
        8,
    )


@pytest.mark.reliability("config.json of a model: fields missing or of another type", "one line that names the field")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("rate", "window", "threshold")
            for value in (None, "x", True, [1], -1, float("inf"))
        ),
        ("window", 5.5),
        ("window", 17),
        ("threshold", 1.5),
        ("unit", "V"),
        ("unit", 3),
        ("preparing", [1]),
        ("preparing.reference", "medain"),
        ("preparing.reference", 3),
        ("preparing.channels", 2.5),
        ("preparing.channels", "all"),
        ("preparing.keep_bads", "yes"),
        ("preparing.exclude", "A1"),
        ("preparing.low", None),
        ("preparing.high", "150"),
        ("preparing.rate", 512),
        ("preparing.notch_filter", 50),
    ],
)
def test_a_field_that_is_missing_or_of_another_type_is_named(folder, name, value):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    outer = config["preprocessing"]
    *parents, last = name.split(".")
    for parent in parents:
        outer = outer[parent]
    if value is None:
        outer.pop(last, None)
        outer |= {last: None} if last == "low" else {}
    else:
        outer[last] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert last in error.value.message
    assert "\n" not in error.value.message


def test_a_name_that_is_a_folder_here_is_that_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").rename(tmp_path / "cm")
    assert load_model(choose("cm")).window == 5
    with pytest.raises(UserError, match="no such folder") as error:
        choose("mvpformer-s-swec")
    assert "models get mvpformer-s-swec" in error.value.hint
