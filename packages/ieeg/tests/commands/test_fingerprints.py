"""What a result or a run belongs to: every option that changes it is in its fingerprint."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from core_runtime.errors import UserError
from core_runtime.identity import differences, spelled
from core_runtime.options import RunOptions
from ieeg.commands import detect as detecting
from ieeg.commands.detect import OutputOptions, detect_files
from ieeg.commands.stream import AlarmOptions, FollowOptions, stream_records
from ieeg.model.folder import load_model, save_model
from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig
from ieeg.recordings.finding import find_recordings
from ieeg.recordings.labels import LabelOptions
from ieeg.recordings.settings import Cleaning, Montage
from ieeg.results.options import EventOptions
from ieeg.samples import SampleOptions, make_samples
from ieeg.training.recipe import CohortOptions, FreshOptions, Recipe


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return make_samples(tmp_path_factory.mktemp("data"), SampleOptions(patients=1, seconds=60))[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
    return save_model(network, tmp_path_factory.mktemp("m") / "model", rate=128.0, window=4)


CHANGES = {
    "events": [EventOptions(**change) for change in (
        {"threshold": 0.3}, {"threshold": 0.9, "low": 0.2}, {"smoothing": 3}, {"min_duration": 5.0}, {"merge_gap": 5.0},
    )],
    "montage": [Montage(reference="average"), Montage(channels=4)],
    "cleaning": [Cleaning(keep_bads=True), Cleaning(exclude=("A1",)), Cleaning(notch=60.0)],
    "labels": [LabelOptions(seizure_length=20.0)],
    "output": [OutputOptions(trace="parquet"), OutputOptions(report=False)],
}  # fmt: skip
DEFAULTS = {
    "events": EventOptions(),
    "montage": Montage(),
    "cleaning": Cleaning(),
    "labels": LabelOptions(),
    "output": OutputOptions(),
}


def test_every_option_of_detect_is_in_the_key(recording, model, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(detecting, "bulk", lambda work, items, run, **_: keys.append(spelled(items[0].key)) or [])
    files = find_recordings(recording)

    def key_of(**changes):
        detect_files(files, str(model), tmp_path / "out", device="cpu", **{**DEFAULTS, **changes})
        return keys[-1]

    plain = key_of()
    for name, variants in CHANGES.items():
        changed_fields = set()
        for variant in variants:
            assert differences(plain, key_of(**{name: variant})), variant
            changed_fields |= {f.name for f in fields(variant) if getattr(variant, f.name) != f.default}
        missing = {f.name for f in fields(DEFAULTS[name])} - changed_fields - {"label_map"}
        assert not missing, f"a new option of {name} needs a line here"
    table = tmp_path / "map.csv"
    table.write_text("label,meaning\nx,seizure\n")
    with_map = key_of(labels=LabelOptions(label_map=table))
    table.write_text("label,meaning\nx,other\n")
    assert differences(with_map, key_of(labels=LabelOptions(label_map=table))), "what the table says counts"
    sidecar = recording.with_name(recording.name.replace("_ieeg.edf", "_channels.tsv"))
    text = sidecar.read_text()
    sidecar.write_text(text.replace("good", "bad", 1))
    try:
        assert differences(plain, key_of()), "a channel marked bad changes the result"
    finally:
        sidecar.write_text(text)


def test_every_option_of_a_run_is_recorded_and_a_resume_with_another_is_refused(recording, ieeg, tmp_path):
    run = tmp_path / "run"
    words = [
        "train",
        recording,
        "--out",
        run,
        "--epochs",
        1,
        "--batches",
        1,
        "--batch",
        2,
        "--window",
        2,
        "--validation",
        0,
    ]
    assert ieeg(*words).code == 0
    recorded = yaml.safe_load((run / "config.yaml").read_text())["arguments"]
    declared = {f.name for group in (Recipe, FreshOptions, Montage, CohortOptions, LabelOptions) for f in fields(group)}
    assert declared <= recorded.keys()
    assert {"paths", "model", "seed", "precision"} <= recorded.keys()
    assert all(recorded[name] is not None for name in ("tune", "epochs", "batches", "batch", "lr", "dropout"))
    for option, value in (("--dropout", 0.3), ("--seed", 5), ("--reference", "average")):
        refused = ieeg(*words, "--resume", option, value)
        assert refused.code == 2
        assert option.removeprefix("--") in refused.err
    again = ieeg("train", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    first, second = (path / "model" / "model.safetensors" for path in (run, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_run_is_not_resumed_from_another_model_of_the_same_name(recording, model, ieeg, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise UserError("the training would begin here")

    monkeypatch.setattr("ieeg.training.module.fit", stop)
    start = Path(shutil.copytree(model, tmp_path / "start"))
    run = ["train", recording, "--model", start, "--out", tmp_path / "run", "--validation", 0, "--epochs", 1]
    assert "would begin" in ieeg(*run).err
    assert "would begin" in ieeg(*run, "--resume").err
    torch.manual_seed(1)
    save_model(load_model(model).network.apply(_drawn_anew), start, rate=128.0, window=4)
    refused = ieeg(*run, "--resume")
    assert refused.code == 2
    assert "the data have changed since the run began" in refused.err


def _drawn_anew(part: torch.nn.Module) -> None:
    for weight in part.parameters(recurse=False):
        torch.nn.init.normal_(weight)


def test_a_stream_is_resumed_with_the_same_options_only(recording, model, tmp_path):
    out = tmp_path / "alarms.jsonl"

    def follow(**changes):
        return list(
            stream_records(
                recording, model=str(model), out=out, following=FollowOptions(every=True), device="cpu", **changes
            )
        )

    assert follow()
    assert [record["type"] for record in follow(resume=True)] in ([], ["alarm"]), "no segment twice"
    for changes in (
        {"alarms": AlarmOptions(threshold=0.9)},
        {"montage": Montage(channels=3)},
        {"cleaning": Cleaning(notch=60)},
    ):
        with pytest.raises(UserError, match="was made with another"):
            follow(resume=True, **changes)


def test_dropout_differs_from_epoch_to_epoch(tmp_path):
    import lightning
    import numpy as np

    from ieeg.model.mvpformer import build
    from ieeg.training.module import fit
    from ieeg.training.sources import Source

    class Signals:
        names = ("A1", "A2")
        segment_count = 12

        def segments(self, first, last):
            return np.ones((last - first, 2, 64), np.float32)

    drawn = []

    class Seeds(lightning.Callback):
        def on_train_batch_end(self, *_):
            drawn.append(int(torch.randint(2**31, (1,))))

    small = {
        "segment": 64,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "inner": 16,
        "positions": 16,
        "channels": 12,
    }
    source = Source("r", "p", Signals(), np.array([[2.0, 4.0]]), 1.0)
    recipe = Recipe(epochs=3, batches=2, batch=2, tune="all", dropout=0.5)
    fit(
        build("s", **small, classes=2),
        [source],
        [],
        RunOptions(out=tmp_path, device="cpu"),
        recipe,
        window=3,
        show=False,
        trainer={"callbacks": [Seeds()]},
    )
    assert len(set(drawn)) == 6
