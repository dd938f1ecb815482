"""A model folder is loaded as it was written, or one line says what is not."""

import json

import pytest
from mutating import changed, mutate_json, mutated, try_changes, try_mutations

from core_runtime.errors import UserError
from gaze.model.durations import KINDS, Durations, LogNormal
from gaze.model.folder import Prepared, load_model, save_model, trained_on
from gaze.model.oat import OAT, OATConfig


@pytest.fixture
def folder(tmp_path):
    sizes = OATConfig(width=24, heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, pointer_width=8)
    durations = Durations({kind: LogNormal(5.0, 1.0, 20) for kind in KINDS})
    prepared = Prepared(looks=True, longest=9, durations=durations)
    return save_model(OAT(sizes), tmp_path / "model", prepared=prepared, provenance={"trials": {"train": ["a"]}})


@changed(600)
def test_no_change_of_a_model_goes_unsaid(folder, capsys, changes):
    def load():
        load_model(str(folder))
        trained_on(str(folder))

    try_changes(folder / "config.json", load, capsys, changes)


@mutated("mutations of a model's config.json", "the model or one line", quick=40)
def test_mutations_of_config(folder, count):
    try_mutations(folder / "config.json", lambda: load_model(str(folder)), count, mutate=mutate_json)


@pytest.mark.parametrize("name", ["width", "heads", "feedforward", "pointer_heads", "pointer_width", "table_rows"])
def test_sizes_of_nothing_are_named(folder, name):
    config = folder / "config.json"
    described = json.loads(config.read_text())
    described["config"][name] = 0
    config.write_text(json.dumps(described))
    with pytest.raises(UserError, match=f"{name} is at least 1, got 0"):
        load_model(str(folder))
