"""braindecode's conventions: shapes, names, equal answers to its own model with the same weights, skorch."""

import warnings

import numpy as np
import pytest
import torch

from ieeg.model.braindecode import BraindecodeMVPFormer
from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig
from ieeg.model.naming import to_ours

SIZES = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 48}


def test_takes_channels_and_times_and_gives_logits_or_features():
    model = BraindecodeMVPFormer(n_chans=3, n_outputs=4, n_times=5 * 64 + 10, sfreq=64, segment_len=64, **SIZES)
    x = torch.randn(2, 3, 330)
    assert model(x).shape == (2, 4)
    assert model.input_window_seconds == pytest.approx(330 / 64)
    assert model(x, return_features=True)["features"].shape == (2, 32)
    model.reset_head(2)
    assert model(x).shape == (2, 2)
    with pytest.raises(ValueError, match="3, 330"):
        model(x[:, :2])


def test_sizes_from_other_arguments_and_sizes_that_contradict():
    model = BraindecodeMVPFormer(
        chs_info=[{}] * 3, n_outputs=2, input_window_seconds=2.0, sfreq=64, segment_len=64, **SIZES
    )
    assert (model.n_chans, model.n_times) == (3, 128)
    with pytest.raises(ValueError, match="are needed"):
        BraindecodeMVPFormer(n_chans=3, n_outputs=2)
    with pytest.raises(ValueError, match="at most"):
        BraindecodeMVPFormer(n_chans=200, n_outputs=2, n_times=64, segment_len=64, **SIZES)
    with pytest.raises(TypeError, match="nonsense"):
        BraindecodeMVPFormer(n_chans=3, n_outputs=2, n_times=64, segment_len=64, nonsense=1)
    with pytest.raises(ValueError, match="own sizes"):
        BraindecodeMVPFormer(n_chans=3, n_outputs=2, n_times=64, network=model.network, width=3)


def test_a_pretrained_network_gets_the_head_that_is_asked_for():
    network = MVPFormer(MVPFormerConfig(segment=64, **SIZES))
    model = BraindecodeMVPFormer(n_chans=3, n_outputs=2, n_times=128, network=network)
    assert model(torch.randn(1, 3, 128)).shape == (1, 2)


def peer(**changes):
    pytest.importorskip("braindecode", reason="braindecode is not installed (group bench)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from braindecode.models import MVPFormer as Theirs
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_head_kv": 2, "d_inner": 48}
    return Theirs(n_outputs=2, n_chans=3, n_times=13 * 64, sfreq=64, segment_len=64, **{**sizes, **changes})


@pytest.mark.slow
def test_equals_braindecode_s_own_model_with_the_same_weights():
    theirs = peer().eval()
    ours = BraindecodeMVPFormer(n_chans=3, n_outputs=2, n_times=13 * 64, sfreq=64, segment_len=64, **SIZES).eval()
    state = to_ours(theirs.state_dict())
    state["seizure_embeddings"] = torch.zeros(3, 64)
    ours.network.load_state_dict(state)
    x = 30 * torch.randn(2, 3, 13 * 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        features = [m(x, return_features=True)["features"] for m in (ours, theirs)]
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_folder_written_for_braindecode_is_read_by_it(tmp_path):
    Theirs = type(peer())
    from ieeg.model.conversion import convert_checkpoint
    from ieeg.model.folder import save_model
    from ieeg.model.layouts import ConversionOptions

    network = MVPFormer(MVPFormerConfig(segment=64, classes=2, **SIZES)).eval()
    save_model(network, tmp_path / "ours", rate=64.0, window=13)
    convert_checkpoint(tmp_path / "ours", tmp_path / "hub", ConversionOptions(to="braindecode", head_width=8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs.from_pretrained(tmp_path / "hub", n_chans=3).eval()
    x = 30 * torch.randn(1, 3, 13 * 64)
    with torch.no_grad():
        expected = network(x.unflatten(-1, (13, 64)).transpose(1, 2))
        torch.testing.assert_close(theirs(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_skorch_trains_it():
    skorch = pytest.importorskip("skorch", reason="skorch is not installed (it comes with braindecode, group bench)")
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 64)
    t = np.arange(256) / 64
    x = generator.standard_normal((64, 3, 256)) + 3 * y[:, None, None] * np.sin(2 * np.pi * 6 * t)
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        BraindecodeMVPFormer,
        module__n_chans=3,
        module__n_outputs=2,
        module__n_times=256,
        module__sfreq=64,
        module__segment_len=64,
        **{f"module__{k}": v for k, v in SIZES.items()},
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=3e-3,
        max_epochs=12,
        batch_size=16,
        train_split=None,
        verbose=0,
    )
    net.fit(x.astype(np.float32), y)
    assert net.score(x.astype(np.float32), y) > 0.9
