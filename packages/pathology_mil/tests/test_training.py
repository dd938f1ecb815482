"""Training, judging and predicting on a small cohort: files, metrics, options, resumption, and mistakes in one line."""

import csv
import json
import math
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from pathology_mil.cohort.cohort import open_cohort
from pathology_mil.cohort.labels import read_labels
from pathology_mil.cohort.options import LabelOptions, SplitOptions
from pathology_mil.cohort.splits import Split, make_splits, read_splits
from pathology_mil.commands.evaluate import evaluate
from pathology_mil.commands.sweep import sweep
from pathology_mil.commands.train import train
from pathology_mil.features.bags import find_bags, write_acmil
from pathology_mil.training.data import BagData, pack
from pathology_mil.training.module import MILTraining, rate
from pathology_mil.training.recipe import NetworkOptions, Recipe

QUICK = Recipe(epochs=1)


def run_in(folder, **options):
    return RunOptions(out=folder, device="cpu", **options)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_folder_holds_what_it_should(trained):
    run = trained.run
    for name in (
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "model/model.safetensors",
        "model/config.json",
        "splits/splits_0.csv",
        "figures/training.png",
        "fold_0.csv",
        "summary.csv",
    ):
        assert (run / name).stat().st_size, name
    history = rows_of(run / "metrics.csv")
    assert len(history) == 15
    assert {"train_slide", "train_branch", "train_diversity", "val_f1_macro", "val_f1_micro", "val_auc"} <= history[
        0
    ].keys()
    assert float(history[-1]["train_slide"]) < float(history[0]["train_slide"]) / 2
    described = json.loads((run / "model/config.json").read_text())
    assert described["preprocessing"]["classes"] == ["normal", "tumour"]
    assert described["preprocessing"]["features"]["encoder"] == "toy"
    assert described["provenance"]["selection"]["rule"] == "val_f1+val_auc"
    assert trained.folds[0].test.auroc > 0.9
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    kept = next(v for k, v in state["callbacks"].items() if k.startswith("RunFiles"))
    best = max(float(r["val_f1_macro"]) + float(r["val_auc"]) for r in history)
    assert kept["best"]["score"] == pytest.approx(best)
    assert str(trained.run) not in json.dumps(described), (
        "a model folder names no path of the machine it was trained on"
    )


def test_evaluate_and_the_test_part_of_a_split(trained, cohort, tmp_path):
    split = read_splits(trained.run / "splits/splits_0.csv")[0]
    options = {"model": str(trained.model), "out": tmp_path / "eval", "resamples": 20, "device": "cpu"}
    found = evaluate(*cohort, splits=trained.run / "splits/splits_0.csv", **options)
    assert found.metrics.accuracy == pytest.approx(trained.folds[0].test.accuracy)
    assert found.metrics.auroc == pytest.approx(trained.folds[0].test.auroc)
    assert found.data["encoder"] == "toy"
    assert found.data["slides"] == len(split.test)
    rows = rows_of(tmp_path / "eval/fold_0.csv")
    assert {r["slide_id"] for r in rows} == set(split.test)
    with pytest.raises(UserError, match="already holds"):
        evaluate(*cohort, **options)


def test_resuming_an_interrupted_run_gives_the_same_model(cohort, tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, lr=1e-3)
    options = {"network": NetworkOptions(model="acmil-mha", width=16), "resamples": 5}
    whole = train(*cohort, recipe=recipe, run=run_in(tmp_path / "whole", seed=5), **options)
    with monkeypatch.context() as patch:
        _stop_after(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            train(*cohort, recipe=recipe, run=run_in(tmp_path / "cut", seed=5), **options)
    assert not (tmp_path / "cut/model").exists()
    cut = train(*cohort, recipe=recipe, run=run_in(tmp_path / "cut", seed=5, resume=True), **options)
    assert (cut.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert (cut.run / "metrics.csv").read_text() == (whole.run / "metrics.csv").read_text()
    assert (cut.run / "fold_0.csv").read_text() == (whole.run / "fold_0.csv").read_text()
    with pytest.raises(UserError, match="already holds a run"):
        train(*cohort, recipe=recipe, run=run_in(tmp_path / "cut", seed=5), **options)
    again = run_in(tmp_path / "cut", seed=5, resume=True)
    with pytest.raises(UserError, match="other values of lr"):
        train(*cohort, recipe=Recipe(epochs=3, lr=1e-2), run=again, **options)


def test_a_run_is_not_resumed_with_another_split_of_the_same_name(cohort, trained, tmp_path):
    splits = tmp_path / "splits.csv"
    table = (trained.run / "splits/splits_0.csv").read_text()
    splits.write_text(table)
    options = {"recipe": QUICK, "splitting": SplitOptions(splits=splits), "resamples": 0}
    train(*cohort, run=run_in(tmp_path / "run"), **options)
    rows = [row.split(",") for row in table.splitlines()]
    for row in rows[1:]:
        row[2], row[3] = row[3], row[2]  # what validated tests now
    splits.write_text("\n".join(",".join(row) for row in rows) + "\n")
    with pytest.raises(UserError, match="the data have changed since the run began"):
        train(*cohort, run=run_in(tmp_path / "run", resume=True), **options)


def test_folds_shots_and_packed_batches(cohort, tmp_path):
    made = train(
        *cohort,
        network=NetworkOptions(model="abmil"),
        recipe=Recipe(epochs=1, batch=3),
        splitting=SplitOptions(folds=3, n_shot=2),
        resamples=5,
        run=run_in(tmp_path / "run"),
    )
    assert len(made.folds) == 3
    tested = [r["slide_id"] for i in range(3) for r in rows_of(tmp_path / f"run/fold_{i}.csv")]
    assert sorted(tested) == sorted(read_labels(cohort[1]).label)
    for i, split in enumerate(read_splits(tmp_path / "run/splits")):
        assert len(split.train) == 4
        assert (tmp_path / f"run/fold_{i}/model/model.safetensors").is_file()
    assert len((tmp_path / "run/summary.csv").read_text().splitlines()) == 4


def test_a_sweep_trains_every_combination_and_goes_on(cohort, tmp_path):
    options = {"mask_drops": (0.0, 0.6), "seeds": (1, 2), "recipe": QUICK, "out": tmp_path, "device": "cpu"}
    rows = sweep(*cohort, **options).rows
    assert [(r.mask_drop, r.runs) for r in rows] == [(0.0, 2), (0.6, 2)]
    assert math.isfinite(rows[0].deviation["auroc"])
    assert len(rows_of(tmp_path / "sweep.csv")) == 2
    before = (tmp_path / "mask_0_seed_1/checkpoints/last.ckpt").stat().st_mtime_ns
    assert sweep(*cohort, **options).rows == rows
    assert (tmp_path / "mask_0_seed_1/checkpoints/last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize("model", ["mean", "acmil-mha"])
def test_every_model_trains_with_the_optional_loss(cohort, tmp_path, model):
    made = train(
        *cohort,
        network=NetworkOptions(model=model, width=16),
        recipe=Recipe(epochs=1, aem_weight=0.1, warmup_epochs=0.5),
        resamples=5,
        run=run_in(tmp_path / "run", precision="bf16-mixed" if model == "acmil-mha" else "32-true"),
    )
    assert math.isfinite(made.folds[0].test.auroc)


def test_acmil_file_with_its_own_labels(cohort, tmp_path):
    labels = read_labels(cohort[1])
    write_acmil(tmp_path / "all.h5", ((b.open(), labels.label[s]) for s, b in find_bags(cohort[0]).items()))
    made = train(tmp_path / "all.h5", recipe=QUICK, resamples=5, run=run_in(tmp_path / "run"))
    assert made.data["slides"] == 24
    assert len(made.folds) == 1
    assert json.loads((made.model / "config.json").read_text())["preprocessing"]["classes"] == ["0", "1"]


def test_slides_without_tiles_are_left_out_and_named(cohort, tmp_path):
    shutil.copytree(cohort[0], tmp_path / "features")
    with h5py.File(tmp_path / "features/slide03.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 16), np.float16), np.zeros((0, 2), int)
    found = open_cohort(tmp_path / "features", cohort[1])
    assert found.skipped == {"slide03": "no tiles"}
    assert len(found.labels) == 23


def _damage(path, kind):
    if kind == "corrupt":
        path.write_bytes(path.read_bytes()[:200])
        return
    with h5py.File(path, "r+") as file:
        x = file["features"][:]
        del file["features"]
        if kind == "NaN":
            x[3, 2] = np.nan
        file["features"] = x[:, :8] if kind == "width" else x


@pytest.mark.parametrize(
    ("kind", "message"),
    [("corrupt", "slide05"), ("width", "16 features per tile, slide05 has 8"), ("NaN", "slide05: 1 of")],
)
def test_damaged_features_are_one_line(cohort, tmp_path, kind, message):
    shutil.copytree(cohort[0], tmp_path / "features")
    _damage(tmp_path / "features/slide05.h5", kind)
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path / "features", cohort[1], recipe=QUICK, resamples=5, run=run_in(tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_labels_that_name_absent_slides(cohort, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(cohort[1].read_text() + "\np99,ghost,tumour")
    with pytest.raises(UserError, match="ghost"):
        open_cohort(cohort[0], table)
    assert len(open_cohort(cohort[0], table, LabelOptions(ignore_missing=True)).labels) == 24
    table.write_text("slide_id,label\nghost,1")
    with pytest.raises(UserError, match="no slide in common"):
        open_cohort(cohort[0], table, LabelOptions(ignore_missing=True))


def test_what_was_asked_for_must_fit(cohort, tmp_path, trained):
    def run(**options):
        return train(*cohort, recipe=QUICK, resamples=5, run=run_in(tmp_path / "run"), **options)

    with pytest.raises(UserError, match="--n-class is 3, but the labels have 2 classes"):
        run(splitting=SplitOptions(n_class=3))
    with pytest.raises(UserError, match="--feature-width is 384, but these features are 16 wide"):
        run(splitting=SplitOptions(feature_width=384))
    with pytest.raises(UserError, match="divisible by the heads: got 12 and 8"):
        run(network=NetworkOptions(model="acmil-mha", width=12))
    assert not (tmp_path / "run").exists()
    other = tmp_path / "labels.csv"
    other.write_text(cohort[1].read_text().replace("tumour", "cancer"))
    with pytest.raises(UserError, match="cancer are not among the classes normal, tumour"):
        evaluate(cohort[0], other, model=str(trained.model), out=tmp_path / "eval", resamples=5)


def test_learning_rate_follows_the_published_schedule():
    recipe = Recipe(epochs=50, lr=2e-4)
    assert rate(0, recipe) == 2e-4
    assert rate(25, recipe) == pytest.approx(1e-4)
    assert rate(50, recipe) == pytest.approx(0)
    warm = Recipe(epochs=10, lr=1e-3, warmup_epochs=2, min_lr=1e-5)
    assert rate(1, warm) == pytest.approx(5e-4)
    assert rate(2, warm) == pytest.approx(1e-3)
    assert rate(10, warm) == pytest.approx(1e-5)


def test_bags_are_packed_in_the_precision_of_the_file(cohort):
    found = open_cohort(*cohort)
    data = BagData(found, make_splits(found.labels)[0], batch=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.features.dtype == torch.float16
    assert batch.lengths == torch.bincount(batch.segments).tolist()
    assert len(batch.labels) == len(batch.slides) == 2
    one = pack([(torch.zeros(3, 2), 1, "a")])
    assert one.lengths == [3]


def test_arguments_are_recorded(trained):
    record = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert record["arguments"]["lr"] == 1e-2
    assert record["arguments"]["model"] == "acmil"
    assert record["data"]
    assert {"torch", "lightning"} <= record["versions"].keys()


def _stop_after(patch, epoch):
    """Interrupts the run in the epoch after this one."""

    def stop(self, outputs, batch, index):
        if self.current_epoch > epoch:
            raise KeyboardInterrupt

    patch.setattr(MILTraining, "on_train_batch_end", stop)


def test_what_is_dropped_differs_from_step_to_step_and_is_the_same_under_a_seed(cohort, tmp_path, monkeypatch):
    drawn: dict[str, list[int]] = {}
    learn = MILTraining.training_step
    name = ""

    def draw(self, *arguments):
        drawn.setdefault(name, []).append(int(torch.randint(2**31, (1,))))
        return learn(self, *arguments)

    monkeypatch.setattr(MILTraining, "training_step", draw)
    splitting = SplitOptions(n_shot=2)
    for name in ("a", "b"):
        options = {
            "network": NetworkOptions(width=8),
            "recipe": Recipe(epochs=3),
            "splitting": splitting,
            "resamples": 0,
        }
        train(*cohort, run=run_in(tmp_path / name, seed=5), **options)
    assert len(set(drawn["a"])) == len(drawn["a"]) == 12
    assert drawn["a"] == drawn["b"]


def test_every_epoch_reads_the_training_slides_in_another_order(cohort):
    opened = open_cohort(*cohort)
    slides = tuple(sorted(opened.labels.label))
    data = BagData(opened, Split(slides[:16], slides[16:20], slides[20:]), seed=3)
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append([slide for batch in loader for slide in batch.slides])
    assert sorted(orders[0]) == list(slides[:16])
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]
    assert [slide for batch in data.val_dataloader() for slide in batch.slides] == list(slides[16:20])
