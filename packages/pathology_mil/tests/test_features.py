import pickle

import h5py
import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from pathology_mil.features.bags import find_bags, open_bag, write_acmil

X = np.arange(40, dtype=np.float32).reshape(10, 4)
COORDS = np.stack([np.arange(10) * 512, np.zeros(10)], 1).astype(np.int64)


def h5(path, *, features=X, coords=COORDS, name="features", attributes=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes or {})
    return path


def test_clam(tmp_path):
    path = h5(tmp_path / "h5_files/a.h5")
    pt = tmp_path / "pt_files/a.pt"
    pt.parent.mkdir()
    torch.save(torch.from_numpy(X), pt)
    for file in (path, pt):
        bag = open_bag(file)
        assert (bag.slide_id, len(bag), bag.side, bag.features.dtype) == ("a", 10, 512, np.float32)
        assert "smallest step" in bag.notes[0]
        np.testing.assert_array_equal(bag.features, X)
        np.testing.assert_array_equal(bag.coords, COORDS)
    assert find_bags(tmp_path)["a"].path == path, "the HDF5 file is preferred, the pair is no conflict"


def test_trident(tmp_path):
    folder = tmp_path / "20x_256px_0px_overlap"
    h5(folder / "patches/a_patches.h5", name="x")
    for slide in "ba":
        path = h5(
            folder / f"features_uni_v1/{slide}.h5",
            features=X.astype(np.float16)[None],
            attributes={"patch_size_level0": 1024, "target_magnification": 20, "custom": "None"},
        )
    bag = open_bag(path)
    assert (bag.side, bag.features.shape, bag.features.dtype) == (1024, (10, 4), np.float16)
    assert bag.attributes["custom"] is None
    np.testing.assert_array_equal(bag.features[2:4], X[2:4])
    np.testing.assert_array_equal(bag.features[[5, 1]], X[[5, 1]])
    assert list(find_bags(folder)) == ["a", "b"]
    h5(folder / "features_phikon/a.h5")
    with pytest.raises(UserError, match="several sets"):
        find_bags(folder)


def test_acmil_round_trip(tmp_path):
    bags = [(open_bag(h5(tmp_path / f"in/s{i}.h5", features=X + i)), i % 2) for i in range(3)]
    path = tmp_path / "patch_feats_pretrain_x.h5"
    write_acmil(path, bags)
    found = find_bags(path)
    assert list(found) == ["s0", "s1", "s2"]
    bag = found["s1"].open()
    assert (bag.slide_id, bag.label, bag.side, bag.features.dtype) == ("s1", 1, 512, np.float16)
    np.testing.assert_array_equal(bag.features, X + 1)
    assert open_bag(path, "s2").label == 0
    for wrong in (None, "s9"):
        with pytest.raises(UserError, match=r"slides|no slide"):
            open_bag(path, wrong)


def test_slideflow_and_other_tensors(tmp_path):
    torch.save({"features": torch.from_numpy(X).bfloat16()}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.index.npz", COORDS)
    bag = open_bag(tmp_path / "a.pt")
    assert bag.side == 512
    np.testing.assert_array_equal(np.asarray(bag.features), X)
    torch.save(torch.from_numpy(X)[None], tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert open_bag(tmp_path / "b.pt").features.shape == (10, 4)
    assert open_bag(tmp_path / "b.pt").coords is None


def test_features_stay_on_disk_and_travel(tmp_path):
    bag = open_bag(h5(tmp_path / "a.h5"))
    again = pickle.loads(pickle.dumps(bag))
    (tmp_path / "a.h5").unlink()
    with pytest.raises(UserError, match="no such file"):
        np.asarray(again.features)


def test_empty_bags_are_legible(tmp_path):
    bag = open_bag(h5(tmp_path / "a.h5", features=X[:0], coords=COORDS[:0], attributes={"patch_size_level0": 512}))
    assert (len(bag), bag.side, np.asarray(bag.features).shape) == (0, 512, (0, 4))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_what_is_no_bag_is_said_plainly(tmp_path, capsys):
    torch.save(Evil(), tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.h5").write_text("x")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:200])
    h5(tmp_path / "few.h5", coords=COORDS[:5])
    h5(tmp_path / "flat.h5", features=X[0])
    h5(tmp_path / "words.h5", features=np.array([["a"]], dtype="S1"), coords=None)
    h5(tmp_path / "other.h5", name="x")
    big = h5(tmp_path / "big.h5", features=np.random.default_rng(0).random((2000, 50)), coords=None)
    big.write_bytes(big.read_bytes()[:400_000])
    names = [
        "evil.pt",
        "list.pt",
        "text.h5",
        "cut.pt",
        "few.h5",
        "flat.h5",
        "words.h5",
        "other.h5",
        "big.h5",
        "absent.h5",
        "absent.pt",
    ]
    for name in names:
        with pytest.raises(UserError) as error:
            np.asarray(open_bag(tmp_path / name).features)
        assert len(str(error.value).splitlines()) == 1
    assert "executed" not in capsys.readouterr().out
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="no feature files"):
        find_bags(tmp_path / "void")
