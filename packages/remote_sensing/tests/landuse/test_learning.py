"""Training, measures, peers, model folders, and what the verbs print."""

import json

import pytest
import torch

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from remote_sensing.landuse.commands.models import check, convert
from remote_sensing.landuse.commands.train import train
from remote_sensing.landuse.metrics import cohen_kappa, measure
from remote_sensing.landuse.model.eurosat import Balanced12LayerCNN, BalancedConfig, folded
from remote_sensing.landuse.model.folder import load_model
from remote_sensing.landuse.model.networks import ResNetConfig, ResNetPeer, build_network
from remote_sensing.landuse.model.sizes import NetworkOptions
from remote_sensing.landuse.scenes.layouts import TileOptions
from remote_sensing.landuse.training.module import LandUseTraining, cosine
from remote_sensing.landuse.training.recipe import Recipe


def test_a_run_leaves_everything(trained):
    run = trained.model.parent
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "model",
        "figures",
        "metrics.json",
    }
    assert "alpha_01" in (run / "metrics.csv").read_text()
    model = load_model(trained.model)
    assert model.classes[9] == "SeaLake"
    raw = torch.randint(0, 255, (3, 3, 64, 64))
    plain, averaged = model(raw), model(raw, tta=True)
    assert torch.allclose(plain.sum(1), torch.ones(3), atol=1e-5)
    assert torch.allclose(model(raw.flip(3), tta=False) / 3 + plain / 3 + model(raw.flip(2)) / 3, averaged, atol=1e-6)
    assert check(str(trained.model)).values["tile_size"] == 64


def test_training_goes_on_after_a_kill(samples, tmp_path, monkeypatch):
    """Two epochs at once, and one epoch, a kill, and the second: the same weights, and the first epoch stays the best."""
    options = {
        "network": NetworkOptions(width=8, depths=(1, 1)),
        "recipe": Recipe(epochs=2, batch=16, schedule="plateau"),
        "tiles": TileOptions(split="100", kind="ms"),
        "bands": ("B04", "B08"),
    }

    class Kill(Exception):
        pass

    begin_epoch = LandUseTraining.on_train_epoch_start

    def score(self):
        self.count(val_loss=1.0, val_accuracy=(0.9, 0.2)[self.current_epoch])

    def die_in_the_second_epoch(self):
        if self.current_epoch == 1:
            raise Kill
        begin_epoch(self)

    monkeypatch.setattr(LandUseTraining, "on_validation_epoch_end", score)
    whole = train(samples, run=RunOptions(out=tmp_path / "a"), **options)
    with monkeypatch.context() as patched:
        patched.setattr(LandUseTraining, "on_train_epoch_start", die_in_the_second_epoch)
        with pytest.raises(Kill):
            train(samples, run=RunOptions(out=tmp_path / "b"), **options)
    assert not (tmp_path / "b" / "model").exists()
    with pytest.raises(UserError, match="already holds a run"):
        train(samples, run=RunOptions(out=tmp_path / "b"), **options)
    resumed = train(samples, run=RunOptions(out=tmp_path / "b", resume=True), **options)
    assert [r["train_loss"] for r in resumed.history] == pytest.approx([r["train_loss"] for r in whole.history])
    for run in ("a", "b"):
        assert load_model(tmp_path / run / "model").provenance["epoch"] == 0
    assert resumed.epoch == whole.epoch == 0
    best = [load_model(run.model, fold=False).network.state_dict() for run in (whole, resumed)]
    last = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in "ab"]
    for a, b in (best, last):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_schedules():
    rates = [cosine(e, 80, restarts=True) for e in range(46)]
    assert [e for e, r in enumerate(rates) if r == 1.0] == [0, 15, 45]
    assert rates[14] < 0.02
    assert cosine(40, 40, restarts=False) == pytest.approx(0)


def test_kappa_of_the_published_result():
    """97.235 % accuracy under EuroSAT's class shares is a kappa of 0.9692."""
    counts = torch.tensor([450, 450, 450, 375, 375, 300, 375, 450, 375, 450])
    confusion = torch.zeros(10, 10)
    for i, n in enumerate(counts.tolist()):
        wrong = n * (1 - 0.97235)
        confusion[i, i] = n - wrong
        confusion[i, (i + 1) % 10] = wrong / 2
        confusion[i, (i + 2) % 10] = wrong / 2
    assert cohen_kappa(confusion) == pytest.approx(0.9692, abs=3e-4)


def test_measures_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    m = measure(probabilities, torch.tensor([0, 0, 0, 1]), ("a", "b"))
    assert m.accuracy == 0.75
    assert m.recall == {"a": pytest.approx(2 / 3), "b": 1.0}
    assert m.confusion == [[2, 1], [0, 1]]
    assert m.pairs == [("a", "b", 1)]
    assert m.confidence_gap == pytest.approx(100 * ((0.9 + 0.7 + 0.8) / 3 - 0.6), abs=1e-4)
    assert m.kappa == pytest.approx((0.75 - 0.5) / 0.5)
    assert measure(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), ("a", "b")).plain()["confidence_gap"] is None


@pytest.mark.parametrize("bands", [3, 13])
def test_resnet_peers_take_imagenet_weights(bands, tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    source = resnet18(weights=None)
    save_file(source.state_dict(), tmp_path / "r18.safetensors")
    peer = ResNetPeer(ResNetConfig(depth=18, in_chans=bands))
    assert peer.load_pretrained(source.state_dict()) == ["fc.weight", "fc.bias"]
    assert peer.eval()(torch.randn(1, bands, 64, 64)).shape == (1, 10)
    summed = peer.net.conv1.weight.sum(1)
    torch.testing.assert_close(summed, source.conv1.weight.sum(1) if bands == 3 else summed)
    with pytest.raises(ValueError, match="conv1"):
        peer.load_pretrained({"x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "sizes"), [("cbam", {"tile_size": 32}), ("nothing", {}), ("baseline", {"tile_size": 50})]
)
def test_sizes_that_do_not_fit(name, sizes):
    with pytest.raises(UserError):
        build_network(name, classes=10, bands=3, **sizes)


@pytest.mark.parametrize("name", ["balanced", "cbam", "baseline", "resnet18"])
def test_folded_batch_norms_change_nothing(name):
    torch.manual_seed(0)
    network = build_network(name, classes=10, bands=3, width=8).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.1)
    quick = folded(network)
    left = [n for n, m in quick.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all("coord_attention" in n for n in left)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(quick(x), network(x), rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_a_state_dict_under_the_published_keys_is_converted(tmp_path):
    torch.manual_seed(0)
    network = Balanced12LayerCNN(BalancedConfig(width=16, depths=(1, 2), drop_probs=(0.05, 0.1))).eval()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    made = convert(tmp_path / "x.pth", out=tmp_path / "model").values
    assert (made["width"], made["depths"]) == (16, [1, 2])
    raw = torch.randint(0, 255, (2, 3, 64, 64))
    model = load_model(made["model"])
    torch.testing.assert_close(model(raw), network(model.preprocessing(raw)).softmax(1))
    (tmp_path / "y.pth").write_bytes(b"no")
    with pytest.raises(UserError, match=r"y\.pth"):
        convert(tmp_path / "y.pth", out=tmp_path / "other")


def test_evaluate_writes_tables_and_pictures(cli, samples, trained, tmp_path):
    code, out, err = cli("landuse", "evaluate", samples, "--model", trained.model, "--out", tmp_path / "e", "--tta")
    assert code == 0, err
    assert "Cohen's kappa" in out
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "metrics.json",
        "predictions.csv",
        "confusion.png",
        "calibration.png",
    }
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert sum(map(sum, metrics["confusion"])) == metrics["tiles"] == 10
    code, _, err = cli("landuse", "evaluate", samples, "--model", trained.model, "--out", tmp_path / "e")
    assert code == 2
    assert "already holds" in err


def test_train_says_what_is_wrong(cli, samples, tmp_path):
    for options, words in (
        (["--bands", "B04"], "RGB"),
        (["--kind", "ms", "--bands", "B99"], "unknown bands"),
        (["--weights", tmp_path / "w"], "ResNet"),
        (["--network", "resnet18", "--weights", tmp_path / "w"], "w"),
        (["--depths", "a"], "is not understood"),
        (["--lr", "0"], "> 0"),
    ):
        code, _, err = cli("landuse", "train", samples, "--out", tmp_path / "run", *options)
        assert code == 2, options
        assert words in err
        assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()
