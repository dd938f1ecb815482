"""Patterns by the autoencoder, the store, and the verb."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from core_runtime.errors import UserError
from explainability.commands.heads import heads
from explainability.models.loading import save_network
from explainability.models.network import Network, NetworkConfig
from explainability.vit_analytics.patterns import (
    PatternAutoencoder,
    choose_clusters,
    cluster,
    head_histograms,
    project,
    scale_maps,
    silhouette,
    suggest,
    train_autoencoder,
)
from explainability.vit_analytics.store import HeadStore, quantise, restore


def synthetic(kind, rows=6, columns=6, noise=0.1, generator=None):
    """A map of one pattern with some noise."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    same_row, same_column = y[:, None] == y, x[:, None] == x
    logits = {
        "self": 6.0 * (same_row & same_column),
        "rows": 5.0 * same_row,
        "columns": 5.0 * same_column,
        "uniform": torch.zeros(rows * columns, rows * columns),
    }[kind].float()
    return (logits + noise * torch.randn(logits.shape, generator=generator)).softmax(-1)


KINDS = ("self", "rows", "columns", "uniform")


def test_clusters_of_synthetic_patterns_are_pure_and_repeat():
    generator = torch.Generator().manual_seed(0)
    truth = [kind for kind in KINDS for _ in range(10)]
    weights = torch.stack([synthetic(kind, generator=generator) for kind in truth])
    maps = scale_maps(weights)
    network, error = train_autoencoder(maps, epochs=20, batch_size=16)
    again, same_error = train_autoencoder(maps, epochs=20, batch_size=16)
    assert error == same_error
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        latents = network.encoder(maps)
    labels = cluster(latents, 4)
    right = 0
    for number in range(4):
        members = [truth[i] for i in (labels == number).nonzero()[:, 0].tolist()]
        right += max(members.count(kind) for kind in KINDS)
    assert right / len(truth) > 0.95
    assert silhouette(latents, labels) > 0.3
    assert project(latents).shape == (40, 2)
    assert torch.equal(cluster(latents, 4), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_suggestions(kind):
    assert suggest(synthetic(kind, 5, 8, noise=0), (5, 8)) == kind


def test_few_keys_are_suggested():
    weights = torch.full((36, 36), 1e-3)
    weights[:, 7] = 1
    assert suggest(weights / weights.sum(-1, keepdim=True), (6, 6)) == "few key patches"


def test_silhouette_is_that_of_its_definition():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0], [50.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    # by hand: 1 − 1/11, 1 − 1/10, 1 − 2/9.5, 1 − 2/11.5, and 0 for the one alone
    expected = np.mean([1 - 1 / 11, 1 - 1 / 10, 1 - 2 / 9.5, 1 - 2 / 11.5, 0])
    assert silhouette(x, labels) == pytest.approx(expected)
    assert silhouette(x, torch.zeros(5, dtype=torch.long)) == 0


def test_few_samples_are_one_pattern():
    labels, score = choose_clusters(torch.rand(3, 4))
    assert labels.tolist() == [0, 0, 0]
    assert score == 0


def test_shapes_of_the_autoencoder():
    for n in (9, 64, 100):
        assert scale_maps(torch.rand(2, n, n).softmax(-1)).shape == (2, 1, 64, 64)
    assert PatternAutoencoder()(torch.rand(2, 1, 64, 64)).shape == (2, 1, 64, 64)
    shares, purity = head_histograms(torch.tensor([[[0, 1]], [[0, 2]]]), 3)
    assert purity.tolist() == [[1.0, 0.5]]
    assert shares.sum(-1).tolist() == [[1.0, 1.0]]


def test_a_store_is_read_in_slices(tmp_path):
    attention = torch.rand(2, 3, 4, 9, 9).softmax(-1)
    arrays = {"jsd": torch.rand(5, 3, 4), "attention": quantise(attention), "pattern": torch.arange(24).view(2, 3, 4)}
    HeadStore.write(tmp_path / "store", arrays, {"grid": [3, 3]})
    store = HeadStore.open(tmp_path / "store")
    assert torch.equal(store.slice("jsd", 4, 1), arrays["jsd"][4, 1].half().float())
    assert torch.equal(store.slice("jsd", slice(1, 3), -1), arrays["jsd"][1:3, -1].half().float())
    assert torch.equal(store.slice("pattern"), arrays["pattern"])
    part = store.slice("attention", 1, 2, 3)
    assert (part.sqrt() - attention[1, 2, 3].sqrt()).abs().max() < 1 / 255
    assert torch.equal(restore(quantise(torch.tensor([0.0, 1.0]))), torch.tensor([0.0, 1.0]))
    for ask, match in (
        (("none",), "no array 'none'"),
        (("jsd", 5), "out of range on axis 0"),
        (("jsd", 0, 0, 0, 0), "has 3 axes"),
    ):
        with pytest.raises(UserError, match=match):
            store.slice(*ask)
    (tmp_path / "store" / "jsd.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="missing or damaged"):
        store.slice("jsd", 0)
    (tmp_path / "store" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        HeadStore.open(tmp_path / "store")
    with pytest.raises(UserError, match="is no store"):
        HeadStore.open(tmp_path)


def test_heads_of_a_set_of_pictures(tmp_path):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "heads": 4}
    network = Network(NetworkConfig(classes=("a", "b"), **sizes)).eval()
    model = save_network(network, tmp_path / "model", {})
    for number in range(18):
        place = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(place)
    result = heads(tmp_path / "pictures", model=str(model), maps=3, prune=6, out=tmp_path / "out")
    assert result.code == 0, result.failed
    assert len(result.summary["ranking"]) == 8
    assert len(result.summary["pruning"]["random"]) == 9
    store = HeadStore.open(tmp_path / "out" / "store")
    assert store.slice("prob_drop").shape == (18, 2, 4)
    assert store.slice("attention", 2, 1, 3).shape == (16, 16)
    assert torch.allclose(store.slice("mass").sum(-1), torch.ones(18, 2, 4), atol=2e-3)
    again = heads(tmp_path / "pictures", model=str(model), maps=3, prune=6, out=tmp_path / "out")
    assert {attempt.status for attempt in again.attempts} == {"already done"}
    assert again.summary["ranking"] == result.summary["ranking"]
    shutil.rmtree(tmp_path / "model")
    prompts = Network(NetworkConfig(classes=("a", "b"), kind="prompt-cam", **sizes)).eval()
    save_network(prompts, tmp_path / "model", {})
    with pytest.raises(UserError, match="plain vision transformer"):
        heads(tmp_path / "pictures", model=str(model), out=tmp_path / "other")
