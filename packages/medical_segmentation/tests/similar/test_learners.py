"""Subspace learners: sampling, splits, clusters, embeddings, and the verbs on drawn lesions."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from core_runtime.errors import UserError
from medical_segmentation.similar.images import find_images, read_picture
from medical_segmentation.similar.metrics import average_precision_at_r, nearest, recall_hits
from medical_segmentation.similar.model.embedding import EmbeddingConfig, EmbeddingNet, check_ranges
from medical_segmentation.similar.model.margin import MarginLoss, pairwise_distances, sample_triplets
from medical_segmentation.similar.model.subspaces import (
    can_split,
    plan_split,
    reassign_clusters,
    split_moments,
    split_ranges,
    split_rows,
)
from medical_segmentation.similar.proxies import otsu, proxy_mask, seen_map
from medical_segmentation.similar.training.data import balanced_batches, interleaved


def slow_triplets(x, labels, cutoff=0.5):
    """The definition, anchor by anchor."""
    distances = pairwise_distances(x)
    same = (labels[:, None] == labels[None]) & ~torch.eye(len(x), dtype=torch.bool)
    count = int(same.sum()) // len(x)
    rows = []
    for i in range(len(x)):
        far = distances[i] + 1e6 * (same[i] | (distances[i] < cutoff))
        negatives = sorted(torch.sort(far, stable=True).indices[:count].tolist())
        positives = same[i].nonzero().flatten().tolist()
        rows += [(i, p, n) for p, n in zip(positives, negatives, strict=False)]
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_triplets_are_those_of_the_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    labels = torch.randint(0, 5, (40,), generator=generator)
    ours = sample_triplets(x, labels)
    assert list(zip(*(part.tolist() for part in ours), strict=True)) == slow_triplets(x, labels)
    distances = pairwise_distances(x)
    assert (distances[ours.anchor, ours.negative] >= 0.5).all()


def test_too_near_negatives_come_only_where_there_are_no_others():
    """Twelve points of two classes, all within the cutoff but for two others: these are taken first."""
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.tensor([1.0, 0, 0]) + 0.05 * torch.randn(12, 3, generator=generator), dim=1)
    x[-2:] = F.normalize(torch.tensor([[0.3, 1, 0], [0.3, 0, 1.0]]), dim=1)
    labels = torch.tensor([0] * 6 + [1] * 6)
    ours = sample_triplets(x, labels)
    assert list(zip(*(part.tolist() for part in ours), strict=True)) == slow_triplets(x, labels)
    negatives = ours.negative[ours.anchor == 0].tolist()
    assert {10, 11} <= set(negatives)
    distances = pairwise_distances(x)
    assert (distances[0, negatives] < 0.5).any()


def test_loss_without_triplets_is_zero_and_counts_can_be_those_of_the_terms():
    x = F.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    assert MarginLoss(4)(x, torch.arange(4)).item() == 0
    x = F.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(12) % 3
    assert MarginLoss(3, pair_count="both")(x, labels) <= MarginLoss(3)(x, labels)


def test_blocks_have_unit_length_and_survive_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    net = EmbeddingNet(EmbeddingConfig("test_resnet", 24, ((0, 10), (10, 17), (17, 24)))).eval()
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        e = net(x).embedding
    assert e.square().sum(1).tolist() == pytest.approx([3, 3], abs=1e-5)
    for first, last in net.learners:
        assert e[:, first:last].norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    other = EmbeddingNet(EmbeddingConfig("test_resnet", 24)).eval()
    other.load_state_dict(net.state_dict())
    assert other.learners == [(0, 10), (10, 17), (17, 24)]
    with torch.no_grad():
        assert torch.equal(other(x).embedding, e)
    with pytest.raises(ValueError, match="cover"):
        check_ranges([(0, 10), (11, 24)], 24)


def test_norms_stay_frozen_and_no_attention_is_average_pooling():
    net = EmbeddingNet(EmbeddingConfig("test_resnet", 8, attention=False)).train()
    before = {name: value.clone() for name, value in net.named_buffers() if "running" in name}
    result = net(torch.randn(3, 3, 48, 48))
    for name, value in net.named_buffers():
        if name in before:
            assert torch.equal(value, before[name])
    torch.testing.assert_close(result.penultimate, F.normalize(result.pooled, dim=1))


def test_splits_keep_a_partition_and_stop_where_too_few_matter():
    torch.manual_seed(0)
    learners, layer = [(0, 40)], torch.nn.Linear(7, 40)
    for _ in range(5):
        split = plan_split(torch.rand(40), learners[-1])
        if not can_split(split, learners[-1]):
            break
        rows = layer.weight[split.selected].clone()
        split_rows(layer, split)
        assert torch.equal(layer.weight[split.kept], rows)
        learners = split_ranges(learners, len(split.selected))
        check_ranges(learners, 40)
    assert len(learners) > 1
    one = torch.zeros(40)
    one[:3] = 1
    assert not can_split(plan_split(one, (0, 40)), (0, 40))
    assert not can_split(plan_split(torch.arange(10.0), (0, 10)), (0, 10))


def test_moments_move_with_their_rows():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 12)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.randn(5, 3)).square().sum().backward()
    optimiser.step()
    before = optimiser.state[layer.weight]["exp_avg"].clone()
    split = plan_split(torch.arange(12.0), (0, 12))
    split_moments(optimiser, layer, split)
    after = optimiser.state[layer.weight]["exp_avg"]
    assert torch.equal(after[split.kept], before[split.selected])
    assert not after[split.reset].any()


def test_matching_gives_back_permuted_clusters():
    before = np.random.default_rng(0).integers(0, 4, 90)
    permuted = np.array([2, 0, 3, 1])[before]
    assert np.array_equal(reassign_clusters(permuted, before, 4), before)
    assert not np.array_equal(reassign_clusters(permuted, before, 4, published=True), before)


def test_batches_are_balanced_and_learners_take_turns():
    labels = [0] * 20 + [1] * 3 + [2] * 9
    rng = np.random.default_rng(0)
    for batch in balanced_batches(range(32), labels, 16, 8, rng):
        counts = [sum(labels[number] == label for number in batch) for label in range(3)]
        assert sorted(counts) == [0, 8, 8]
    order = interleaved([[["a"], ["b"], ["c"]], [["x"]], []])
    assert [(learner, batch[0]) for learner, batch in order] == [
        (0, "a"),
        (1, "x"),
        (0, "b"),
        (1, "x"),
        (0, "c"),
        (1, "x"),
    ]


def test_neighbours_recall_and_precision():
    points = torch.tensor([[0.0], [1.0], [2.5], [10.0], [11.5]])
    labels = np.array([0, 0, 1, 1, 1])
    distances, numbers = nearest(points, points, 4, exclude_self=True)
    assert numbers[0].tolist() == [1, 2, 3, 4]
    assert distances[0, 0] == pytest.approx(1)
    neighbours = labels[numbers.numpy()]
    recall = recall_hits(neighbours, labels, [1, 2, 4]).mean(0)
    assert (np.diff(recall) >= 0).all()
    assert recall[0] == pytest.approx(4 / 5)
    assert average_precision_at_r(neighbours, labels)[2] == pytest.approx((0 + 0) / 2)
    with pytest.raises(ValueError, match="5 neighbours were asked for, the gallery has 4"):
        nearest(points, points, 5, exclude_self=True)


def test_otsu_separates_two_groups_and_maps_land_where_they_belong():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 500), rng.normal(0.8, 0.03, 300)]).astype(np.float32)
    assert 0.3 < otsu(values) < 0.7
    attention = torch.zeros(1, 14, 14)
    attention[0, 2:5, 9:12] = 1
    seen = seen_map(attention, (64, 64), 224)
    y, x = np.argwhere(proxy_mask(seen)).mean(0)
    assert x > 40
    assert y < 24


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    from medical_segmentation.similar.options import SampleOptions
    from medical_segmentation.similar.samples import make_samples

    return make_samples(tmp_path_factory.mktemp("lesions") / "data", SampleOptions(images=12, size=24)) / "lesions.npz"


@pytest.fixture(scope="module")
def trained(lesions, tmp_path_factory):
    from core_runtime.options import RunOptions
    from medical_segmentation.similar.commands.train import train
    from medical_segmentation.similar.options import EmbeddingOptions, Recipe

    return train(
        lesions,
        embedding=EmbeddingOptions(backbone="test_resnet", size=16, image_size=24, learners=2, train_norms=True),
        recipe=Recipe(epochs=2, finetune=1, lr=1e-3, batch=16),
        run=RunOptions(out=tmp_path_factory.mktemp("similar") / "run", device="cpu"),
    )


def test_index_find_and_proxies(cli, lesions, trained, tmp_path):
    from PIL import Image

    index = tmp_path / "index"
    assert cli("similar", "index", lesions, "--model", trained.model, "--out", index)[0] == 0
    images = find_images(lesions)
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(3):
        Image.fromarray(images.read(number)).save(archive / f"{number}.png")
    (archive / "1.png").write_bytes(b"\x89PNG cut")
    for _ in range(2):  # the second time from what is there
        code, out, err = cli("similar", "index", archive, "--model", trained.model, "--out", tmp_path / "partly")
        assert code == 1
        assert "left out: 1.png" in err
        assert out.startswith("2 images")
    code, _, err = cli("similar", "index", archive, "--model", trained.model, "--out", tmp_path / "none", "--stop")
    assert code == 2
    assert not (tmp_path / "none").exists()
    code, _, err = cli("similar", "index", archive, "--model", trained.model, "--out", tmp_path / "partly", "--stop")
    assert code == 2
    assert "1.png" in err
    Image.fromarray(images.read(5)).save(tmp_path / "query.png")
    code, out, err = cli(
        "similar",
        "find",
        tmp_path / "query.png",
        "--index",
        index,
        "--k",
        3,
        "--picture",
        tmp_path / "near.png",
        "--json",
    )
    assert code == 0, err
    rows = json.loads(out)["neighbours"]
    assert rows[0]["name"] == images.names[5]
    assert rows[0]["distance"] == pytest.approx(0, abs=2e-3)
    assert (tmp_path / "near.png").is_file()
    code, _, err = cli("similar", "find", tmp_path / "query.png", "--index", index, "--k", 900)
    assert code == 2
    assert "the index holds" in err
    code, out, err = cli(
        "similar", "predict", tmp_path / "query.png", "--model", trained.model, "--out", tmp_path / "proxies"
    )
    assert code == 0, err
    from medical_segmentation.organs.cohort.layouts import find_dataset

    dataset = find_dataset(tmp_path / "proxies")
    image = dataset.image(dataset.labelled[0])
    assert set(np.unique(dataset.labels(dataset.labelled[0], image))) <= {0, 1}


def test_images_that_were_trained_on_are_told_by_their_pixels(lesions, trained, tmp_path):
    """Another archive has images of the same names; class folders have none of them."""
    from PIL import Image

    from medical_segmentation.similar.cohort import unseen_images
    from medical_segmentation.similar.model.folder import load_model

    provenance = load_model(trained.model).provenance
    images = find_images(lesions)
    assert unseen_images(images, "test", provenance)[0] == images.numbers("test")
    with np.load(lesions) as stored:
        arrays = dict(stored)
    arrays["test_images"] = np.concatenate([255 - arrays["test_images"], arrays["train_images"][:2]])
    arrays["test_labels"] = np.concatenate([arrays["test_labels"], arrays["train_labels"][:2]])
    np.savez(tmp_path / "other.npz", **arrays)
    numbers, origin = unseen_images(find_images(tmp_path / "other.npz"), "test", provenance)
    assert len(numbers) == len(images.numbers("test"))
    assert "(2 that it was are left out)" in origin
    for number in range(len(images)):
        path = tmp_path / "folders" / images.classes[images.labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.read(number)).save(path)
    folders = find_images(tmp_path / "folders")
    for part in ("test", "val"):
        numbers, _ = unseen_images(folders, part, provenance)
        assert sorted(int(folders.names[n].split("/")[1][:-4]) for n in numbers) == images.numbers(part), part


def test_copies_of_training_images_do_not_judge(lesions, tmp_path, capsys):
    from core_runtime.options import RunOptions
    from medical_segmentation.similar.commands.train import train
    from medical_segmentation.similar.options import EmbeddingOptions, Recipe

    with np.load(lesions) as stored:
        arrays = dict(stored)
    test = len(arrays["test_images"])
    arrays["test_images"] = np.concatenate([arrays["test_images"], arrays["train_images"][:3]])
    arrays["test_labels"] = np.concatenate([arrays["test_labels"], arrays["train_labels"][:3]])
    np.savez(tmp_path / "copies.npz", **arrays)
    trained = train(
        tmp_path / "copies.npz",
        embedding=EmbeddingOptions(backbone="test_resnet", size=8, image_size=24, train_norms=True),
        recipe=Recipe(epochs=1, batch=16),
        run=RunOptions(out=tmp_path / "run", device="cpu"),
    )
    assert "3 images of the part test" in capsys.readouterr().err
    assert trained.values["parts"]["test"] == test


def test_learners_are_in_the_model_folder(trained):
    from medical_segmentation.similar.model.folder import load_model

    assert load_model(trained.model).network.learners == [(0, 8), (8, 16)]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"train_images": np.zeros((4, 8, 8), np.uint8)}, "no train_images and train_labels"),
        ({"train_images": np.zeros((4, 8, 8), np.float32), "train_labels": np.zeros((4, 1), np.uint8)}, "float32"),
        ({"train_images": np.zeros((4, 8, 8), np.uint8), "train_labels": np.full((4, 1), 0.5)}, "not whole numbers"),
        (
            {"train_images": np.zeros((4, 8, 8), np.uint8), "train_labels": np.arange(4)[:, None]},
            "two classes of two images",
        ),
    ],
    ids=["no labels", "floats", "half labels", "one image per class"],
)
def test_archives_that_do_not_fit(cli, tmp_path, arrays, says):
    np.savez(tmp_path / "bad.npz", **arrays)
    code, _, err = cli("similar", "train", tmp_path / "bad.npz", "--out", tmp_path / "run")
    assert code == 2
    assert says in err
    assert not (tmp_path / "run").exists()


def test_tables_lists_and_folders(tmp_path):
    from PIL import Image

    for label in "ab":
        for number in range(3):
            path = tmp_path / "set" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA" if number else "L", (9, 7)).save(path)
    folder = find_images(tmp_path / "set")
    assert (len(folder), folder.classes, folder.read(0).shape) == (6, ["a", "b"], (7, 9, 3))
    (tmp_path / "set.csv").write_text("path,label\nset/a/0.png,x\nset/b/1.png,y\n")
    assert find_images(tmp_path / "set.csv").classes == ["x", "y"]
    (tmp_path / "S_train.txt").write_text("image_id class_id path\n1 1 set/a/0.png\n2 2 set/b/0.png\n")
    (tmp_path / "S_test.txt").write_text("image_id class_id path\n3 1 set/a/1.png\n")
    listed = find_images(tmp_path / "S_train.txt")
    assert listed.parts == ["train", "train", "test"]
    (tmp_path / "bad.csv").write_text("path,label\nnowhere.png,x\n")
    with pytest.raises(UserError, match="not there"):
        find_images(tmp_path / "bad.csv")


def test_similar_images_stand_beside_a_mask(cli, lesions, trained, untrained, abdomens, tmp_path):
    index = tmp_path / "index"
    assert cli("similar", "index", lesions, "--model", trained.model, "--out", index)[0] == 0
    path = abdomens / "imagesTr" / "abdomen_001_0000.nii.gz"
    options = ["--model", untrained, "--out", tmp_path / "out", "--json", "--similar"]
    code, out, err = cli("organs", "predict", path, *options, index)
    assert code == 0, err
    (case,) = json.loads(out)["cases"]
    assert (tmp_path / "out" / case["case"] / case["files"]["similar"]).is_file()
    assert [row["rank"] for row in case["similar"]] == [1, 2, 3, 4, 5]
    assert all(row["name"] in set(find_images(lesions).names) for row in case["similar"])
    code, _, err = cli("organs", "predict", path, *options, tmp_path / "nothing", "--overwrite")
    assert code == 2
    assert "is no index" in err


def training_of(images, **recipe):
    from medical_segmentation.similar.options import Recipe
    from medical_segmentation.similar.training.module import SubspaceTraining

    torch.manual_seed(0)
    net = EmbeddingNet(EmbeddingConfig("test_resnet", 16, recipe.pop("learners", ()), frozen_norms=False))
    numbers = images.numbers("train")
    return SubspaceTraining(net, Recipe(**recipe), images, numbers, images.numbers("val"), image_size=24, seed=0)


def test_one_learner_is_plain_training_with_the_margin_loss(lesions):
    images = find_images(lesions)
    training = training_of(images, epochs=10, dynamic=False)
    assert all(training.clusters_of(epoch) is None for epoch in range(10))
    x, labels = torch.randn(12, 3, 24, 24), torch.arange(12) % 3
    training.model.eval()
    batch = {"image": x, "label": labels, "learner": torch.full((12,), -1)}
    loss = training.training_step(batch, 0)
    expected = MarginLoss(len(images.classes))(F.normalize(training.model(x).embedding, dim=1), labels)
    torch.testing.assert_close(loss, expected)


def test_a_class_with_one_image_in_a_cluster_leaves_it_and_an_emptied_cluster_is_passed_over(lesions):
    from medical_segmentation.similar.model.subspaces import without_singletons
    from medical_segmentation.similar.training.data import SubspaceData

    clusters, labels = np.array([0, 0, 0, 1, 1]), np.array([5, 5, 6, 5, 5])
    assert without_singletons(clusters, labels).tolist() == [0, 0, -1, 1, 1]
    images = find_images(lesions)
    training = training_of(images, epochs=10, learners=((0, 8), (8, 16)))
    data = SubspaceData(images, training.train_numbers, training.recipe, size=24, workers=0, seed=0)
    everything = np.zeros(len(training.train_numbers), np.int64)
    everything[0] = 1  # the second learner has one image, of one class: nothing to learn from
    training.clusters_of = lambda epoch: everything
    training.trainer = data.trainer = type(
        "Trainer", (), {"lightning_module": training, "current_epoch": 0, "callbacks": []}
    )()
    learners = {learner for items in data.train_dataloader().batch_sampler for learner, _, _ in items}
    assert learners == {0}


@pytest.mark.slow
def test_a_killed_training_of_learners_goes_on_as_if_it_had_not_been(lesions, tmp_path, monkeypatch):
    """Ranges, clusters and Adam's moments are in the checkpoint: the weights are equal bit for bit."""
    from safetensors.numpy import load_file

    from core_runtime.options import RunOptions
    from medical_segmentation.similar.commands.train import train
    from medical_segmentation.similar.options import EmbeddingOptions, Recipe
    from medical_segmentation.similar.training.module import SubspaceTraining

    def start(name, **more):
        return train(
            lesions,
            embedding=EmbeddingOptions(backbone="test_resnet", size=24, image_size=24, learners=2, train_norms=True),
            recipe=Recipe(epochs=4, finetune=1, lr=1e-3, batch=16, patience=1),
            run=RunOptions(out=tmp_path / name, device="cpu", threads=1, **more),
        )

    whole = start("whole")
    original, calls = SubspaceTraining.training_step, []
    steps = 5

    def killed(self, batch, index):
        calls.append(1)
        if len(calls) == steps:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(SubspaceTraining, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            start("killed")
    resumed = start("killed", resume=True)
    assert resumed.values["learners"] == whole.values["learners"]
    weights, again = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    for name, tensor in weights.items():
        assert np.array_equal(tensor, again[name]), name


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white_and_not_black(tmp_path, mode):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").min() == 255


def test_a_folder_of_images_names_what_it_leaves_out(tmp_path, capsys):
    import nibabel
    from PIL import Image

    from medical_segmentation.similar.images import find_images

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    values = np.random.default_rng(0).integers(0, 99, (8, 8, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "b.nii.gz")
    (tmp_path / "._a.png").write_bytes(b"a Mac's side-car")
    (tmp_path / "notes.txt").write_text("mine")
    images = find_images(tmp_path)
    assert images.names == ["a.png", "b.nii.gz"]
    assert images.read(1).shape == (8, 8, 3)
    assert "1 file left out, no images that can be read: notes.txt" in capsys.readouterr().err
