"""Every layout of a EuroSAT download, the split lists, the memory map, samples and augmentation."""

import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from remote_sensing.landuse.cohort import split_tiles
from remote_sensing.landuse.samples.samples import MS_PLACE
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, STATISTICS, picture, preprocessing
from remote_sensing.landuse.scenes.classes import CLASSES
from remote_sensing.landuse.scenes.layouts import TileSet, find_tiles
from remote_sensing.landuse.scenes.store import decoded
from remote_sensing.landuse.scenes.tiles import LandUseTiles
from remote_sensing.landuse.training.augment import augmented, blurred, hue_turned, turned
from remote_sensing.landuse.training.data import LandUseData
from remote_sensing.landuse.training.module import LandUseTraining
from remote_sensing.landuse.training.recipe import PRESETS, Recipe, effective_weights


@pytest.mark.parametrize(
    ("place", "layout"),
    [
        ("2750", "torchvision RGB"),
        ("eurosat/2750", "torchvision RGB"),
        ("EuroSAT_RGB", "Zenodo RGB"),
        ("EuroSAT", "Kaggle RGB"),
        (".", "class folders"),
    ],
)
def test_rgb_layouts(samples, tmp_path, place, layout):
    shutil.copytree(samples / "EuroSAT_RGB", tmp_path / place, dirs_exist_ok=True)
    tiles = find_tiles(tmp_path)
    assert tiles.layout == layout
    assert tiles.classes == CLASSES
    assert len(tiles.files) == 50
    assert tiles.bands == RGB
    assert set(tiles.lists) >= {"csv"}
    assert decoded(tiles, tmp_path / "cache").shape == (50, 3, 64, 64)


@pytest.mark.parametrize("place", [MS_PLACE, "EuroSATallBands", "EuroSAT_MS", "."])
def test_multispectral_layouts(samples, tmp_path, place):
    shutil.copytree(samples / MS_PLACE, tmp_path / place, dirs_exist_ok=True)
    tiles = find_tiles(tmp_path)
    assert tiles.bands == FILE_ORDER
    assert tiles.bands[-1] == "B8A"
    store = decoded(tiles, tmp_path / "cache")
    assert store.shape == (50, 13, 64, 64)
    assert store.dtype == np.uint16


@pytest.mark.parametrize("name", ["EuroSATallBands.zip", "EuroSAT.zip"])
def test_archives_are_read_without_unpacking(samples, tmp_path, name):
    place = MS_PLACE if "all" in name else "EuroSAT_RGB"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for file in sorted((samples / place).rglob("*.*")):
            archive.write(file, f"top/{file.relative_to(samples / place)}")
    for path in (tmp_path, tmp_path / name):
        tiles = find_tiles(path)
        assert len(tiles.files) == 50
        assert len(decoded(tiles, tmp_path / "cache")) == 50


def test_kind_chooses_where_both_are_there(samples):
    assert find_tiles(samples).is_rgb
    assert not find_tiles(samples, "ms").is_rgb


def test_rgb_of_the_reflectances_matches_the_pictures(samples, tmp_path):
    rgb, ms = find_tiles(samples), find_tiles(samples, "ms")
    pictures, spectra = (decoded(t, tmp_path) for t in (rgb, ms))
    assert [f.rpartition(".")[0] for f in rgb.files] == [f.rpartition(".")[0] for f in ms.files]
    order = [FILE_ORDER.index(b) for b in ("B04", "B03", "B02")]
    difference = picture(spectra[:, order]).astype(int) - pictures
    assert abs(difference).mean() < 2.5, "JPEG at quality 100 changes a pixel by a level or two"


@pytest.mark.parametrize("name", ["csv", "torchgeo", "spatial", "100", "random70", "stratified"])
def test_splits_are_disjoint_and_complete(samples, name):
    tiles = find_tiles(samples)
    split = split_tiles(tiles, name, seed=1)
    parts = [set(split.train), set(split.val), set(split.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert len(set.union(*parts)) == 50
    assert all(parts)


def test_split_sizes_of_the_whole_data_set():
    counts = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)
    labels = tuple(np.repeat(np.arange(10), counts).tolist())
    files = tuple(f"{CLASSES[c]}/{CLASSES[c]}_{i}.jpg" for i, c in enumerate(labels))
    tiles = TileSet(None, "", "", files, labels, CLASSES, RGB, {})
    split = split_tiles(tiles, "random70")
    assert (len(split.train), len(split.val), len(split.test)) == (18_900, 4_050, 4_050)
    split = split_tiles(tiles, "stratified")
    assert (len(split.train), len(split.val), len(split.test)) == (18_900, 4_050, 4_050)
    assert Counter(labels[i] for i in split.test) == {c: n * 15 // 100 for c, n in enumerate(counts)}


def test_samples_are_torchgeos(samples, tmp_path):
    tiles = find_tiles(samples, "ms")
    data = LandUseTiles(decoded(tiles, tmp_path), tiles, bands=("B04", "B03", "B02"))
    sample = data[7]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.float32
    assert int(sample["label"]) == tiles.labels[7]
    assert data.plot(sample).axes
    with pytest.raises(ValueError, match="B99"):
        LandUseTiles(data.store, tiles, bands=("B99",))


def test_only_training_steps_augment_and_a_seed_repeats_it(samples, tmp_path):
    tiles = find_tiles(samples)
    store = decoded(tiles, tmp_path)
    data = LandUseData(store, tiles, split_tiles(tiles, "torchgeo"), batch=8, seed=3)
    for part in (data.train, data.val, data.test):
        assert torch.equal(part[0]["image"], torch.from_numpy(store[part.numbers[0]].astype("float32")))
    seen = []
    network = Seen(seen)
    training = LandUseTraining(network, preprocessing(RGB), Recipe(), None, seed=0)
    batch = torch.utils.data.default_collate([data.train[i] for i in range(4)])
    plain = preprocessing(RGB)(batch["image"])
    for _ in range(2):
        torch.manual_seed(5)
        training.training_step(batch, 0)
    training.on_validation_epoch_start()
    training.validation_step(batch, 0)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], plain)
    assert torch.equal(seen[2], plain)


class Seen(torch.nn.Module):
    """Keeps what it is given."""

    def __init__(self, seen):
        super().__init__()
        self.seen, self.layer = seen, torch.nn.Linear(1, 10)

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layer(x.mean((1, 2, 3))[:, None])


def test_hue_is_turned_by_a_tenth_of_the_circle_at_most():
    torch.manual_seed(0)
    colour = torch.tensor([140.0, 110.0, 90.0])
    made = augmented(colour[None, :, None, None].expand(64, 3, 9, 9).contiguous(), limit=255.0, rgb=True)
    # the plane of colours beside brightness
    planes = torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])

    def hue(rgb):
        i, q = planes @ rgb
        return torch.atan2(q, i)

    turns = torch.stack([hue(tile[:, 4, 4]) for tile in made]) - hue(colour)
    degrees = ((turns.rad2deg() + 180) % 360 - 180).abs()
    assert 20 < float(degrees.max()) < 36.5


@pytest.mark.parametrize("bands", [3, 13])
def test_augmentation_keeps_range_and_mean(bands):
    torch.manual_seed(0)
    limit = 255.0 if bands == 3 else 10_000.0
    x = torch.rand(64, bands, 32, 32) * limit
    y = augmented(x, limit=limit, rgb=bands == 3)
    assert y.shape == x.shape
    assert float(y.min()) >= 0
    assert float(y.max()) <= limit
    grey = torch.full((2, 3, 8, 8), 0.5)
    torch.testing.assert_close(hue_turned(grey, torch.tensor([1.0, -2.0])), grey, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(blurred(grey, torch.tensor([0.2, 2.0])), grey)
    turns = turned(x[:1], torch.tensor([torch.pi / 2]))
    torch.testing.assert_close(turns, torch.rot90(x[:1], 1, (2, 3)))


def test_statistics_and_recipes():
    prepare = preprocessing(FILE_ORDER)
    mean = torch.tensor([STATISTICS[b][0] for b in FILE_ORDER])[:, None, None].expand(13, 2, 2)
    assert float(prepare(mean).abs().max()) < 1e-6
    assert Recipe().complete("balanced", CLASSES).schedule == "warm-restarts"
    assert Recipe(lr=0.5).complete("cbam", CLASSES).lr == 0.5
    assert Recipe().complete("cbam", CLASSES).class_weights == "paper"
    assert Recipe().complete("cbam", ("a", "b")).class_weights == "effective"
    assert {n: Recipe().complete(n, CLASSES).epochs for n in PRESETS} == {
        "balanced": 80,
        "cbam": 40,
        "baseline": 30,
        "resnet18": 30,
        "resnet50": 30,
    }
    weights = effective_weights([10, 100, 0])
    assert weights[0] > weights[1] > weights[2] == 0
    assert sum(weights) / 2 == pytest.approx(1)


def lfs(folder):
    for name in CLASSES[:2]:
        (folder / name).mkdir(parents=True)
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3456\n"
        (folder / name / f"{name}_1.jpg").write_text(text)


def one_class(folder):
    (folder / "Forest").mkdir(parents=True)
    (folder / "Forest" / "Forest_1.jpg").write_bytes(b"")


def empty(folder):
    folder.mkdir()


@pytest.mark.parametrize(
    ("make", "message"), [(lfs, "LFS"), (one_class, "only the class"), (empty, "no EuroSAT tiles")]
)
def test_unusable_folders(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        find_tiles(tmp_path / "x")


def test_tiles_of_another_kind_are_left_out_with_their_number(samples, tmp_path, capsys):
    shutil.copytree(samples / "EuroSAT_RGB", tmp_path / "x")
    shutil.copytree(samples / MS_PLACE, tmp_path / "x", dirs_exist_ok=True)
    for picture_file in (tmp_path / "x" / "River").glob("*.jpg"):
        picture_file.rename(picture_file.with_suffix(".bmp"))
    tiles = find_tiles(tmp_path / "x")
    said = " ".join(capsys.readouterr().err.split())
    assert tiles.bands == RGB
    assert "50 rasters beside 45 tiles are left out; --kind ms takes them" in said
    assert "5 images are left out, tiles are .jpg, .png or .tif, not .bmp" in said
    assert "no tile is left of River" in said
    assert find_tiles(tmp_path / "x", "ms").bands == FILE_ORDER
    assert "45 pictures beside 50 tiles are left out; --kind rgb takes them" in " ".join(
        capsys.readouterr().err.split()
    )


def test_damaged_or_other_tiles_are_named(samples, tmp_path):
    shutil.copytree(samples / "EuroSAT_RGB", tmp_path / "x")
    (tmp_path / "x" / "River" / "River_3.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"River_3\.jpg"):
        decoded(find_tiles(tmp_path / "x"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_lists_of_another_download_are_refused(samples, tmp_path):
    shutil.copytree(samples / "EuroSAT_RGB", tmp_path / "EuroSAT_RGB")
    for part in ("train", "val", "test"):
        (tmp_path / f"eurosat-{part}.txt").write_text("Forest_999.jpg\n")
    with pytest.raises(UserError, match="Forest_999"):
        split_tiles(find_tiles(tmp_path), "torchgeo")
    with pytest.raises(UserError, match="no lists"):
        split_tiles(find_tiles(tmp_path), "spatial")
