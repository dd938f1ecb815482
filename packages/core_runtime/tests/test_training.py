"""A run folder's training: killed and resumed, the kept epoch, patience, a loss that is no number."""

import csv
import math

import pytest

torch = pytest.importorskip("torch", reason="training needs torch and lightning: uv sync --all-groups")
lightning = pytest.importorskip("lightning", reason="training needs lightning: uv sync --all-groups")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from core_runtime.errors import UserError  # noqa: E402
from core_runtime.options import RunOptions  # noqa: E402
from core_runtime.training import EpochOrder, Training, draw_history, first_epoch, fit  # noqa: E402


class Line(Training):
    """A line with dropout on its input; the validation scores are given."""

    def __init__(self, *, seed=0, scores=None, broken=False):
        torch.manual_seed(seed)
        super().__init__(torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)), seed)
        self.scores, self.broken, self.seen = scores, broken, []

    def training_step(self, batch, index):
        self.seen.append(batch[0][:, 0].tolist())
        loss = (self.model(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean() / (0 if self.broken else 1)
        self.count(train_loss=loss.item())
        return self.finite(loss, "the line")

    def close_epoch(self):
        given = {} if self.scores is None else {"val": self.scores[self.current_epoch]}
        return super().close_epoch() | given

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05)


class Data(lightning.LightningDataModule):
    def __init__(self, workers=0):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        data = TensorDataset(torch.arange(40.0).view(10, 4) / 40)
        order = EpochOrder(10, 7, epoch=first_epoch(self))
        return DataLoader(data, 3, sampler=order, num_workers=self.workers, persistent_workers=self.workers > 0)


class Draws(lightning.Callback):
    """What a step would draw, at its end."""

    def __init__(self):
        self.drawn = []

    def on_train_batch_end(self, *_):
        self.drawn.append(int(torch.randint(2**31, (1,))))


def test_no_two_steps_draw_the_same(tmp_path):
    draws, others = Draws(), Draws()
    fit(
        Line(),
        Data(),
        RunOptions(out=tmp_path / "a", device="cpu"),
        epochs=3,
        show=False,
        trainer={"callbacks": [draws]},
    )
    fit(
        Line(seed=1),
        Data(),
        RunOptions(out=tmp_path / "b", device="cpu"),
        epochs=1,
        show=False,
        trainer={"callbacks": [others]},
    )
    assert len(draws.drawn) == 12
    assert len({*draws.drawn, *others.drawn}) == 16


class Killed(BaseException):
    pass


class Kill(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6:  # in the second of four steps of the second epoch
            raise Killed


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, workers):
    whole, halved, again = Line(), Line(), Line()
    expected = fit(whole, Data(), RunOptions(out=tmp_path / "whole", device="cpu"), epochs=3, show=False)
    with pytest.raises(Killed):
        fit(
            halved,
            Data(),
            RunOptions(out=tmp_path / "run", device="cpu"),
            epochs=3,
            show=False,
            trainer={"callbacks": [Kill()]},
        )
    with open(tmp_path / "run/metrics.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 1
    found = fit(again, Data(workers), RunOptions(out=tmp_path / "run", device="cpu"), epochs=3, show=False)
    assert found == expected
    assert again.seen == whole.seen[4:]
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not again.model.training
    assert [row["epoch"] for row in found.history] == [0, 1, 2]
    assert (tmp_path / "run/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (
        fit(Line(), Data(), RunOptions(out=tmp_path / "run", device="cpu"), epochs=3, show=False) == expected
    )  # nothing left to do


def test_the_epoch_with_the_greatest_score_is_kept_and_patience_ends_a_run(tmp_path):
    scores = [math.nan, 0.5, 0.9, 0.7, 0.9, 0.8, 1.0]
    left = fit(
        Line(scores=scores),
        Data(),
        RunOptions(out=tmp_path / "a", device="cpu"),
        epochs=7,
        score="val",
        patience=2,
        show=False,
    )
    assert left.best["epoch"] == 2
    assert left.best["score"] == 0.9
    assert len(left.history) == 5
    other = fit(
        Line(scores=scores),
        Data(),
        RunOptions(out=tmp_path / "b", device="cpu"),
        epochs=4,
        score=lambda row: -row["val"],
        show=False,
    )
    assert other.best["epoch"] == 1
    kept = torch.load(tmp_path / "b/checkpoints/best.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert fit(Line(), Data(), RunOptions(out=tmp_path / "c", device="cpu"), epochs=2, show=False).best["epoch"] == 1


def test_a_resumed_run_remembers_its_best_epoch(tmp_path):
    scores = [0.9, 0.5, 0.7]
    with pytest.raises(Killed):
        fit(
            Line(scores=scores),
            Data(),
            RunOptions(out=tmp_path, device="cpu"),
            epochs=3,
            score="val",
            show=False,
            trainer={"callbacks": [Kill()]},
        )
    left = fit(Line(scores=scores), Data(), RunOptions(out=tmp_path, device="cpu"), epochs=3, score="val", show=False)
    assert left.best["epoch"] == 0
    assert left.best["score"] == 0.9
    kept = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert kept["epoch"] == 0


def test_a_loss_that_is_no_number_is_a_plain_error(tmp_path):
    with pytest.raises(UserError, match="of the line is inf") as caught:
        fit(Line(broken=True), Data(), RunOptions(out=tmp_path / "run", device="cpu"), epochs=2, show=False)
    assert "--lr" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "ended from outside"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "ended from outside"),
        (MemoryError("Caught MemoryError in DataLoader worker process 0."), "ran out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory"),
    ],
)
def test_a_training_without_memory_is_a_plain_error(tmp_path, monkeypatch, error, says):
    def ending_in(problem):
        def step(*_):
            raise problem

        return step

    monkeypatch.setattr(Line, "training_step", ending_in(error))
    with pytest.raises(UserError, match=says) as caught:
        fit(Line(), Data(), RunOptions(out=tmp_path / "run", device="cpu"), epochs=2, show=False)
    assert "--workers" in str(caught.value.hint)
    monkeypatch.setattr(Line, "training_step", ending_in(RuntimeError("mat1 and mat2 differ")))
    with pytest.raises(RuntimeError, match="mat1"):
        fit(Line(), Data(), RunOptions(out=tmp_path / "other", device="cpu"), epochs=2, show=False)


def test_notes_of_the_user_stay_where_a_run_is_taken_away(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        fit(Line(broken=True), Data(), RunOptions(out=tmp_path, device="cpu"), epochs=2, show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_order_is_a_function_of_seed_and_epoch():
    order = EpochOrder(10, 3)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
    assert sorted(first) == list(range(10))
    assert list(EpochOrder(10, 3, with_epoch=True)) == [(0, i) for i in first]


def test_the_history_is_drawn(tmp_path):
    history = [{"epoch": 0.0, "loss": 2.0}, {"epoch": 1.0, "loss": 1.0}]
    draw_history(history, tmp_path / "figures" / "training.png", [("loss", "val_loss"), ("val_auc",)])
    assert (tmp_path / "figures/training.png").read_bytes().startswith(b"\x89PNG")
