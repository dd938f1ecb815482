"""Training data, copies of recordings, both objectives, a killed run that goes on, forecasts, alarms."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from ieeg.model.forecast import forecast_segments, waveforms
from ieeg.model.lora import with_lora
from ieeg.model.mvpformer import build
from ieeg.model.stream import Alarms, AlarmState, follow_signals
from ieeg.recordings.copies import Signature, copies, refuse_copies, refuse_leaks, seen_in_training, signature_of
from ieeg.reports.forecast import draw_forecast
from ieeg.training.data import FINE, BatchNumbers, FixedWindows, Patient, WindowData, labels
from ieeg.training.module import best_threshold, fit, rate
from ieeg.training.recipe import Recipe
from ieeg.training.sources import Source, Stored, store

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


class InMemory:
    def __init__(self, count=40, channels=3, samples=64, seed=0):
        self.data = np.random.default_rng(seed).standard_normal((count, channels, samples)).astype(np.float32)
        self.names = [f"A{i + 1}" for i in range(channels)]

    @property
    def segment_count(self):
        return len(self.data)

    def segments(self, first, last):
        return self.data[first:last]


def source(name="r", patient="p", seizures=((20.0, 26.0),), **options) -> Source:
    return Source(name, patient, InMemory(**options), np.array(seizures, float).reshape(-1, 2), 1.0)


def small(**changes):
    torch.manual_seed(0)
    return build("s", **{**SMALL, **changes})


def test_a_window_is_positive_if_its_last_segment_touches_a_seizure_ends_included():
    seizures = np.array([[10.0, 20.0]])
    begins = np.array([3.9, 4.0, 7.0, 14.0, 15.0, 15.1])  # the last of six segments of 1 s begins 5 s later
    assert labels(begins, seizures, window=6, seconds=1.0).tolist() == [False, True, True, True, True, False]
    assert not labels(begins, np.zeros((0, 2)), window=6, seconds=1.0).any()


def test_windows_begin_in_fine_steps_near_seizures_and_on_segments_elsewhere():
    patient = Patient([source(count=200, seizures=[(100.0, 102.0)])], window=4)
    starts = np.concatenate([patient.positive, patient.negative])[:, 1]
    assert (starts[starts < 50 * FINE] % FINE == 0).all()
    assert len(np.unique(starts[(starts > 95 * FINE) & (starts < 100 * FINE)] % FINE)) == FINE
    assert len(Patient([source(count=200)], window=4, slow_down=False)) == 197


def test_a_window_between_segments_holds_the_signal_between_them():
    signals = InMemory(samples=100)
    patient = Patient([Source("r", "p", signals, np.zeros((0, 2)), 1.0)], window=3)
    x = patient.read(np.array([[0, 2 * FINE + 5]]), 3, None)[0]
    line = signals.data.transpose(1, 0, 2).reshape(3, -1)
    np.testing.assert_array_equal(x.transpose(0, 1).flatten(1), line[:, 220:520])


def test_batches_are_of_one_patient_balanced_and_a_function_of_their_number():
    sources = [source("a", "p1", channels=5), source("b", "p1", channels=3), source("c", "p2", channels=4)]
    data = WindowData(sources, window=4, batch=64, max_channels=4, seed=3)
    batches = [data[i] for i in range(6)]
    assert {b.patient for b in batches} == {"p1", "p2"}
    for batch in batches:
        assert batch.x.shape == (64, 4, 3 if batch.patient == "p1" else 4, 64)
        assert 0.3 < batch.y.float().mean() < 0.7
    again = WindowData(sources, window=4, batch=64, max_channels=4, seed=3)[2]
    assert torch.equal(again.x, batches[2].x)
    numbers = BatchNumbers(3)
    assert list(numbers) == [0, 1, 2]
    numbers.set_epoch(2)
    assert list(numbers) == [6, 7, 8]
    with pytest.raises(UserError, match="the longest has 40"):
        WindowData(sources, window=41, batch=2)
    judge = FixedWindows(sources, window=4, batch=16, max_channels=8, most=20)
    assert sum(len(judge[i].y) for i in range(len(judge))) == 10 + 10 + 8 + 10


def test_prepared_segments_are_stored_whole(tmp_path):
    signals = InMemory()
    kept = store(signals, tmp_path / "a.npy", block=7)
    assert isinstance(kept, Stored)
    np.testing.assert_array_equal(kept.segments(3, 9), signals.data[3:9])
    assert kept.segment_count == 40
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def signed(name, patient, **changes):
    values = tuple(np.random.default_rng(0).uniform(5, 50, 40))
    return Signature(
        **{"name": name, "patient": patient, "channels": 3, "rate": 512.0, "samples": 9000, "values": values, **changes}
    )


def test_copies_are_found_by_content_and_refused():
    first, copy = signed("ID20/a", "ID20"), signed("ID01/x", "ID01")
    rounded = signed("b", "p", values=tuple(v * 1.0004 for v in first.values))
    other = signed("c", "q", values=tuple(v * 1.1 for v in first.values))
    assert [[s.name for s in g] for g in copies([first, other, copy, rounded])] == [["ID20/a", "ID01/x", "b"]]
    with pytest.raises(UserError, match=r"ID20/a \(ID20\) = ID01/x \(ID01\)"):
        refuse_copies([first, copy])
    refuse_copies([first, other, signed("d", "r", samples=9001), signed("e", "s", channels=4)])
    with pytest.raises(UserError, match="under another name"):
        refuse_leaks([first], [copy])
    with pytest.raises(UserError, match="patient q is in the training data"):
        refuse_leaks([other], [signed("new", "q", samples=5)])
    assert signature_of(json.loads(json.dumps(first.plain()))).same_as(first)
    provenance = {"recordings": [first.plain() | {"held_out": False}]}
    assert "trained on this recording, as ID20/a" in seen_in_training(provenance, copy)
    assert "other recordings of patient ID20" in seen_in_training(provenance, signed("n", "ID20", samples=7))
    assert seen_in_training(provenance, other) == seen_in_training(None, first) == ""
    flat = signed("f", "x", values=(0.0,) * 40)
    assert not flat.same_as(signed("g", "y", values=(0.0,) * 40))


def test_parts_of_a_recording_are_found_whatever_their_ends_order_and_format(tmp_path, write_edf):
    from ieeg.recordings.copies import KEPT, signature
    from ieeg.recordings.opening import open_recording

    rng = np.random.default_rng(3)
    x = 30 * np.cumsum(rng.normal(size=(4, 300 * 128)), 1) / 100 + rng.normal(scale=10, size=(4, 300 * 128))

    def of(name, values, names="ABCD", unit="uV"):
        path = write_edf(
            tmp_path / f"{name}.edf", {f"{n}1": (v, 128, unit) for n, v in zip(names, values, strict=False)}
        )
        return signature(open_recording(path), name, name)

    whole = of("whole", x)
    part = of("part", x[::-1, 128 * 101 : 128 * 230] / 1000, "WXYZ", "mV")
    other = of("other", rng.permutation(x.ravel()).reshape(x.shape)[:, : 128 * 129])
    calibration = np.tile(np.sin(np.arange(128 * 5) * 2 * np.pi / 640), (4, 60))
    assert 10 < len(part.landmarks) < len(whole.landmarks) < KEPT
    assert whole.same_as(part)
    assert signature_of(json.loads(json.dumps(part.plain()))).same_as(whole)
    assert not other.same_as(whole)
    assert of("sine", calibration).landmarks == ()
    with pytest.raises(UserError, match=r"whole \(whole\) = part \(part\)"):
        refuse_copies([whole, other, part])
    known = {"recordings": [part.plain() | {"held_out": False}]}
    assert "trained on a part of this recording, as part" in seen_in_training(known, whole)
    old = {k: v for k, v in whole.plain().items() if k != "landmarks"}  # of a model folder made before there were any
    assert signature_of(old).landmarks == ()


def test_the_rate_rises_and_falls():
    assert rate(0.0, 0.1) == 0
    assert rate(0.05, 0.1) == pytest.approx(0.5)
    assert rate(0.1, 0.1) == pytest.approx(1)
    assert rate(1.0, 0.1) == pytest.approx(0)


def test_recipes_by_model_and_their_limits():
    assert Recipe().suited_to("tiny").tune == "all"
    assert Recipe().suited_to("a/model").tune == "lora"
    assert Recipe(lr=1e-5).suited_to("tiny").lr == 1e-5
    assert Recipe(epochs=20).suited_to("tiny").epochs == 20
    assert Recipe().suited_to().lr == 1e-4
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"warmup": 1.0}, {"selection": "never"}, {"class_weights": (1.0, 0.0)}):
        with pytest.raises(UserError, match="--" + next(iter(wrong)).replace("_", "-")):
            Recipe(**wrong)


QUICK = {"epochs": 2, "batches": 3, "batch": 4, "tune": "all", "lr": 1e-2, "dropout": 0.0}


class Stop(Exception):
    pass


@pytest.mark.parametrize("task", ["detect", "pretrain"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, task):
    import lightning

    class Kill(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise Stop

    sources = [source("a", "p1"), source("b", "p2")]
    recipe = Recipe(task=task, **QUICK)
    classes = 2 if task == "detect" else 0
    whole, halved = small(classes=classes), small(classes=classes)
    best = fit(
        whole, sources[:1], sources[1:], RunOptions(out=tmp_path / "whole", device="cpu"), recipe, window=4, show=False
    ).best
    with pytest.raises(Stop):
        fit(
            halved,
            sources[:1],
            sources[1:],
            RunOptions(out=tmp_path / "halved", device="cpu"),
            recipe,
            window=4,
            show=False,
            trainer={"callbacks": [Kill()]},
        )
    halved = small(classes=classes)
    again = fit(
        halved,
        sources[:1],
        sources[1:],
        RunOptions(out=tmp_path / "halved", device="cpu"),
        recipe,
        window=4,
        show=False,
    ).best
    assert best == pytest.approx(again, nan_ok=True)
    for a, b in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    rows = (tmp_path / "halved" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    assert ("val_kappa" if task == "detect" else "val_accuracy") in rows[0]


def test_fine_tuning_leaves_the_base_as_it_was(tmp_path):
    base = small(classes=2)
    tuned = with_lora(base, rank=2)
    fit(
        tuned,
        [source()],
        [],
        RunOptions(out=tmp_path, device="cpu"),
        Recipe(**{**QUICK, "tune": "lora"}),
        window=4,
        show=False,
    )
    for name, before in base.state_dict().items():
        after = tuned.state_dict()[name]
        assert torch.equal(before, after) == (name != "head.weight"), name
    assert any(t.abs().sum() > 0 for n, t in tuned.state_dict().items() if "lora_B" in n)
    with pytest.raises(ValueError, match="with_lora"):
        fit(
            small(classes=2),
            [source()],
            [],
            RunOptions(out=tmp_path / "x", device="cpu"),
            Recipe(),
            window=4,
            show=False,
        )
    with pytest.raises(ValueError, match="cannot be used for pre-training"):
        fit(
            small(classes=2),
            [source()],
            [],
            RunOptions(out=tmp_path / "x", device="cpu"),
            Recipe(task="pretrain"),
            window=4,
            show=False,
        )


def test_waveforms_have_the_embedding_they_were_made_from():
    model = small(width=32, heads=2)
    e = model.encode(torch.randn(5, 64))
    for like in (None, torch.randn(4, 2, 64).cumsum(-1)):
        again = model.encode(waveforms(model, e.detach(), like))
        assert torch.cosine_similarity(e, again, dim=-1).min() > 0.99


def test_forecasts_are_measured_against_the_truth():
    model, signals = small().eval(), InMemory()
    made = forecast_segments(model, signals, steps=2, window=6)
    assert (made.first, made.predicted.shape, made.truth.shape) == (38, (2, 3, 64), (2, 3, 64))
    assert made.similarity.shape == made.persistence.shape == (2, 3)
    np.testing.assert_allclose(made.predicted.std(-1), np.tile(made.context.std(-1), (2, 1)), rtol=1e-3)
    expected = model.predict_next(model.encode(torch.from_numpy(signals.data[32:38])[None]), last=True)[0, 0]
    truth = model.encode(torch.from_numpy(signals.data[38]))
    np.testing.assert_allclose(made.similarity[0], torch.cosine_similarity(expected, truth, dim=-1).detach(), atol=1e-4)
    beyond = forecast_segments(model, signals, first=40, steps=1, window=6)
    assert len(beyond.truth) == 0
    early = forecast_segments(model, signals, first=2, window=6)
    assert early.padded == 4
    for each in (made, beyond):
        draw_forecast(each, 64.0)
    with pytest.raises(UserError, match="cannot be forecast"):
        forecast_segments(model, signals, first=0)
    with pytest.raises(UserError, match="cannot forecast"):
        forecast_segments(small(classes=2), signals)


def test_alarms_have_hysteresis_and_confirmation():
    state = AlarmState(Alarms(0.8, 0.5, 2), 5.0)
    said = [r for i, p in enumerate([0.9, 0.1, 0.9, 0.9, 0.6, 0.6, 0.4, 0.2]) for r in state.step(i, p, ["A1"])]
    assert [(r["state"], r["onset"]) for r in said] == [("on", 10.0), ("off", 10.0)]
    assert said[1]["offset"] == 30.0
    with pytest.raises(ValueError, match="release"):
        Alarms(0.5, 0.6)


def test_a_growing_recording_gives_the_records_of_the_grown_one():
    model, whole = small(classes=2).eval(), InMemory()
    with torch.no_grad():
        model.head.weight.mul_(100)
    lengths = iter([3, 3, 11, 30, 40, 40, 40, 40])

    def reopen():
        part = InMemory()
        part.data = whole.data[: next(lengths, 40)]
        return part

    options = {"seconds": 1.0, "window": 6, "alarms": Alarms(0.5, 0.45), "every_segment": True}
    expected = list(follow_signals(model, lambda: whole, **options))
    began = time.monotonic()
    found = list(follow_signals(model, reopen, follow=True, poll=0.001, patience=0.1, **options))
    assert time.monotonic() - began < 10
    assert found == expected
    assert {r["type"] for r in found} == {"segment", "alarm"}
    numbers = [r["index"] for r in found if r["type"] == "segment"]
    assert numbers == list(range(40))
    json.dumps(found)
    last_on = max((r["onset"] for r in expected if r.get("state") == "on" and r["onset"] < 20), default=None)
    off = [r["offset"] for r in expected if r.get("state") == "off" and r["onset"] == last_on]
    running = None if last_on is None or (off and off[0] < 20) else int(last_on)
    resumed = list(follow_signals(model, lambda: whole, first=20, running_since=running, **options))
    tail = [r for r in expected if r.get("index", -1) >= 20 or (r["type"] == "alarm" and r.get("said_at", 99) > 20)]
    assert resumed == tail


def test_of_equally_good_thresholds_the_middle_one_is_taken(monkeypatch):
    """Probabilities are 0.2 without and 0.8 within the seizure: every threshold between is as good."""
    seconds = 5.0
    inside = np.zeros(40, bool)
    inside[10:20] = True
    answers = [SimpleNamespace(probability=0.8 if within else 0.2) for within in inside]
    monkeypatch.setattr("ieeg.training.module.probabilities", lambda *_, **__: answers)
    source = Source("a", "p", SimpleNamespace(), np.array([[10 * seconds, 20 * seconds]]), seconds)
    threshold = best_threshold(torch.nn.Identity(), [source], window=1)
    assert threshold == pytest.approx(0.5, abs=0.03)
