import copy
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from core_runtime.training import RunFiles
from vision_models.classify.commands.train import train
from vision_models.classify.model.classifier import Classifier, ClassifierConfig, takes
from vision_models.classify.model.folder import load_model
from vision_models.classify.model.options import NetworkOptions
from vision_models.classify.model.preparing import preprocessing_for
from vision_models.classify.training.data import posterize
from vision_models.classify.training.module import ClassificationTraining
from vision_models.classify.training.phases import NetworkLosses
from vision_models.classify.training.recipe import Recipe, learning_rate
from vision_models.starting import load_start

from .classify_nets import QUICK, TINY, sparsifiner


def weights_of(folder):
    return load_model(folder).network.state_dict()


def test_a_run_leaves_what_it_made(trained, samples):
    run = trained.model.parent
    for name in ("config.yaml", "metrics.csv", "metrics.json", "figures/training.png", "predictions/test.csv"):
        assert (run / name).is_file(), name
    assert trained.values["split"] == {"name": "given", "train": 48, "val": 12, "test": 12}
    assert trained.values["channels"] == 3
    assert len(trained.history) == 2
    with pytest.raises(UserError, match="already holds a run"):
        train(samples["folders"], network=TINY, recipe=Recipe(**QUICK), run=RunOptions(out=run, device="cpu"))


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norms_learn_unless_they_are_frozen(samples, tmp_path, frozen):
    recipe = Recipe(**(QUICK | {"epochs": 1, "frozen_norms": frozen}))
    made = train(samples["folders"], network=TINY, recipe=recipe, run=RunOptions(out=tmp_path / "run", device="cpu"))
    tracked = [value for name, value in weights_of(made.model).items() if name.endswith("num_batches_tracked")]
    assert tracked
    assert all(bool(value == 0) == frozen for value in tracked)


def test_a_killed_run_goes_on_as_if_it_had_not_been(trained, samples, tmp_path, monkeypatch):
    save = RunFiles.on_train_epoch_end

    def killed(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFiles, "on_train_epoch_end", killed)
    options = {"network": TINY, "recipe": Recipe(**QUICK)}
    with pytest.raises(KeyboardInterrupt):
        train(samples["folders"], **options, run=RunOptions(out=tmp_path / "run", device="cpu"))
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model").exists()
    again = train(samples["folders"], **options, run=RunOptions(out=tmp_path / "run", device="cpu", resume=True))
    for name, weight in weights_of(again.model).items():
        torch.testing.assert_close(weight, weights_of(trained.model)[name], rtol=0, atol=0)
    changed = Recipe(**(QUICK | {"lr": 1e-3}))
    with pytest.raises(UserError, match="other values of lr"):
        train(
            samples["folders"],
            network=TINY,
            recipe=changed,
            run=RunOptions(out=tmp_path / "run", device="cpu", resume=True),
        )


def test_the_learning_rate_rises_and_falls_as_deits():
    recipe = Recipe(epochs=300, warmup=5)
    assert learning_rate(0, recipe, 1e-3) == 1e-6
    assert learning_rate(5, recipe, 1e-3) == pytest.approx(1e-3)
    assert learning_rate(152.5, recipe, 1e-3) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(300, recipe, 1e-3) == pytest.approx(1e-5)


def test_labels_are_smoothed_where_nothing_is_mixed():
    recipe = Recipe(epochs=1, warmup=0, mixup=0.0, cutmix=0.0, erasing=0.0, smoothing=0.3)
    training = ClassificationTraining(sparsifiner(), preprocessing_for(16, 3), recipe, 0)
    training.trainer = SimpleNamespace(current_epoch=0)
    _, targets = training.augmented(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.tensor([1]), 0)
    torch.testing.assert_close(targets, torch.tensor([[0.1, 0.8, 0.1]]))


def test_the_optimizer_scales_to_the_batch_and_leaves_tokens_and_biases_undecayed():
    recipe = Recipe(epochs=2, warmup=0, batch=64, lr=4e-3, weight_decay=0.05)
    model = sparsifiner()
    training = ClassificationTraining(model, preprocessing_for(16, 3), recipe, 0)
    training.trainer = SimpleNamespace(estimated_stepping_batches=20)
    optimizer = training.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        assert group["initial_lr"] == pytest.approx(4e-3 * 64 / 512)
    names = {id(parameter): name for name, parameter in model.network.named_parameters()}
    decayed = set()
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            decayed |= {names[id(parameter)] for parameter in group["params"]}
    assert "blocks.0.mlp.fc1.weight" in decayed
    assert not decayed & {"cls_token", "pos_embed", "blocks.0.mlp.fc1.bias", "norm.weight"}


def test_the_balance_of_a_mixture_of_heads_is_the_mean_over_its_layers():
    torch.manual_seed(0)
    settings = {
        "depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 48], "num_heads": [2, 4, 4, 6], "shared": [2, 1, 2, 0], "routed": [0, 2, 1, 4],
    }  # fmt: skip
    model = Classifier(ClassifierConfig("moh_vit_s80", 3, 3, 32, json.dumps(settings)))
    x = torch.randn(2, 3, 32, 32)
    _, more = NetworkLosses(model, Recipe(epochs=1, warmup=0))(x, 0)
    balances = model.network.forward_with_balance(x)[1]
    assert len(balances) == 4
    torch.testing.assert_close(more["balance_loss"], 0.01 * sum(balances) / 4)


def test_the_middle_of_a_picture_is_what_a_network_sees():
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste((255, 255, 255), (10, 0, 30, 20))
    assert preprocessing_for(20, 3).cut(picture).getextrema() == ((255, 255),) * 3


def test_networks_get_only_the_settings_that_they_take():
    assert takes("vit_tiny_patch16_224", "img_size")
    assert not takes("resnet10t", "img_size")
    assert takes("sparsifiner_s", "img_size")
    assert NetworkOptions(settings=("channels=8/16", "a=true", "b=0.5", "c=x")).values() == {
        "channels": (8, 16),
        "a": True,
        "b": 0.5,
        "c": "x",
    }
    with pytest.raises(UserError, match="'depth' is not name=value"):
        NetworkOptions(settings=("depth",)).values()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (NetworkOptions(network="resnet19"), "resnet19"),
        (NetworkOptions(network="resnet10t", settings=("depth=3",)), "depth"),
        (NetworkOptions(network="resnet10t", insert="sea"), "unknown mechanism 'sea'"),
        (NetworkOptions(network="vit_tiny_patch16_224", insert="ela"), "--insert ela into vit_tiny_patch16_224"),
    ],
)
def test_networks_that_cannot_be_built_are_one_line(samples, tmp_path, network, words):
    with pytest.raises(UserError, match=words):
        train(samples["folders"], network=network, run=RunOptions(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_are_taken_but_for_the_head(tmp_path):
    sizes = '{"channels": [8, 8, 16, 16], "stem_width": 8}'
    one, other = (Classifier(ClassifierConfig("resnet10t", n, 3, 16, sizes)) for n in (6, 9))
    torch.save(one.network.state_dict(), tmp_path / "one.pth")
    start = load_start(other.network, tmp_path / "one.pth")
    assert set(start.fresh) == {"fc.weight", "fc.bias"}
    torch.testing.assert_close(other.network.conv1[0].weight, one.network.conv1[0].weight)
    wider = Classifier(ClassifierConfig("resnet10t", 6, 3, 16, '{"channels": [8, 8, 16, 24], "stem_width": 8}'))
    with pytest.raises(UserError, match=r"does not fit the network: \d+ tensors"):
        load_start(wider.network, tmp_path / "one.pth")


def test_a_sparsifiner_learns_in_two_phases():
    torch.manual_seed(0)
    model = sparsifiner()
    recipe = Recipe(epochs=2, predictor_epochs=1, batch=4, drop_path=0.0)
    training = ClassificationTraining(model, preprocessing_for(16, 3), recipe, 0)
    losses = training.losses
    x = torch.randn(4, 3, 16, 16)
    moved = []
    for epoch in (0, 1):
        before = copy.deepcopy(model.state_dict())
        losses.begin_epoch(epoch)
        logits, more = losses(x, epoch)
        assert (logits is None) == (epoch == 0)
        assert set(more) == ({"reconstruction_loss"} if epoch == 0 else {"logit_distillation", "token_distillation"})
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        optimizer.zero_grad()
        sum(more.values()).backward()
        optimizer.step()
        moved.append({name for name, value in model.state_dict().items() if not torch.equal(value, before[name])})
    assert moved[0]
    assert all("mask_predictor" in name for name in moved[0])
    assert moved[1]
    assert not any("mask_predictor" in name for name in moved[1])


def test_the_teacher_of_a_sparsifiner_is_its_dense_start():
    torch.manual_seed(0)
    model = sparsifiner()
    losses = NetworkLosses(model, Recipe(epochs=2, predictor_epochs=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    x = torch.randn(2, 3, 16, 16)
    first = losses.teacher.detailed(x, warm_up=True).logits
    assert not torch.allclose(first, model.network.detailed(x, warm_up=True).logits)
    assert not any(parameter.requires_grad for parameter in losses.teacher.parameters())


def test_a_phase_of_predictors_needs_predictors_and_weights(samples, tmp_path):
    recipe = Recipe(epochs=3, predictor_epochs=1)
    with pytest.raises(UserError, match="which this network has not"):
        train(samples["folders"], network=TINY, recipe=recipe, run=RunOptions(out=tmp_path / "run"))
    small = NetworkOptions(network="sparsifiner_s", settings=("patch_size=4", "embed_dim=16", "depth=1", "num_heads=2"))
    with pytest.raises(UserError, match="no --weights are given"):
        train(samples["folders"], network=small, recipe=recipe, run=RunOptions(out=tmp_path / "run"))
    with pytest.raises(UserError, match="leaves none of 2 epochs"):
        Recipe(epochs=2, predictor_epochs=2)


def test_posterising_to_no_bit_is_black():
    image = Image.new("RGB", (2, 2), (200, 100, 50))
    assert posterize(image, 0).getextrema() == ((0, 0),) * 3
    assert posterize(image, 1).getpixel((0, 0)) == (128, 0, 0)
    assert posterize(image, 8) is image
