"""Model folders are strict and whole; official files are read by allow-list or refused, never executed."""

import argparse
import enum
import json
import os
import pickle
import sys
import types
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core_attention.checkpoints import folders as checkpoints
from core_attention.checkpoints.config import decode, encode
from core_attention.checkpoints.folders import load_model, read_config, read_official, renamed, save_model


class Pool(enum.Enum):
    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True)
class Head:
    width: int = 2
    scale: float = 1.0


@dataclass(frozen=True)
class TinyConfig:
    width: int
    depths: tuple[int, ...] = (1, 2)
    grid: tuple[int, int] | None = None
    size: int | tuple[int, int] = 3
    head: Head = field(default_factory=Head)
    pool: Pool = Pool.MEAN
    kind: Literal["a", "b"] = "a"
    dtype: torch.dtype = torch.float32
    names: list[str] = field(default_factory=list)


class Tiny(nn.Module):
    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(4, config.width)
        self.norm = nn.BatchNorm1d(config.width)
        self.out = nn.Linear(config.width, 4, bias=False)
        self.out.weight = self.embed.weight  # tied
        self.register_buffer("table", torch.arange(3.0), persistent=False)


class Other(Tiny):
    def __init__(self, config: TinyConfig):
        super().__init__(config)


CONFIG = TinyConfig(
    3, (2, 2, 6), (4, 5), (1, 2), Head(7, 2.0), Pool.MAX, kind="b", dtype=torch.bfloat16, names=["x", "é"]
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save_model(Tiny(CONFIG), tmp_path / "run" / "model", preprocessing={"mean": 0.5}, provenance={"seed": 0})


def spoil_config(folder, **changes):
    """Changes fields of config.json; of the config within, those that are given."""
    place = folder / "config.json"
    content = json.loads(place.read_text())
    if isinstance(changes.get("config"), dict):
        changes["config"] = content["config"] | changes["config"]
    place.write_text(json.dumps(content | changes))


def test_a_model_folder_round_trips(folder):
    model = load_model(folder, Tiny)
    torch.manual_seed(0)
    for (name, expected), (other, tensor) in zip(
        Tiny(CONFIG).state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(expected, tensor)
    assert model.config == CONFIG
    assert model.out.weight is model.embed.weight
    assert not model.training
    described = read_config(folder)
    assert described["class"] == "Tiny"
    assert described["preprocessing"] == {"mean": 0.5}
    assert described["provenance"]["seed"] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert "out.weight" not in load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept_tensor_by_tensor(tmp_path, dtype):
    model = Tiny(CONFIG).to(dtype)
    model.norm.float()  # norms in float32, as mixed precision keeps them
    loaded = load_model(save_model(model, tmp_path / "model"), Tiny)
    assert loaded.embed.weight.dtype == dtype
    assert loaded.norm.weight.dtype == torch.float32
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    assert loaded.out.weight is loaded.embed.weight


def test_saving_replaces_what_is_there(folder):
    save_model(Tiny(replace(CONFIG, width=5)), folder)
    assert load_model(folder, Tiny).embed.weight.shape == (4, 5)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_interrupted_save_leaves_the_old_model_and_is_cleared_by_the_next(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def fail(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", fail)
        with pytest.raises(KeyboardInterrupt):
            save_model(Tiny(replace(CONFIG, width=5)), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    save_model(Tiny(CONFIG), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_another_class_is_refused(folder):
    with pytest.raises(ValueError, match="holds a Tiny, expected a Other"):
        load_model(folder, Other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"width": 3, "extra": 1}}, r"unknown \['extra'\]"),
        ({"config": {"width": "3"}}, "width is '3', expected int"),
        ({"config": {"width": True}}, "width is True, expected int"),
        ({"config": {"width": 3, "kind": "c"}}, "kind is 'c', expected one of"),
        ({"config": {"width": 3, "depths": 3}}, "depths is 3, expected a list"),
        ({"config": {"width": 3, "grid": [1, 2, 3]}}, "grid is"),
        ({"config": {"width": 3, "pool": "sum"}}, "'sum' is not a valid Pool"),
        ({"config": {"width": 3, "dtype": "Tensor"}}, "not a dtype"),
        ({"config": {"width": 3, "head": {"heads": 1}}}, r"head does not fit Head: unknown \['heads'\], missing"),
        ({"config": {"width": -3}}, "no Tiny can be built"),
        ({"config": {"width": 10**30}}, "no Tiny can be built"),  # torch adds a trace of its C++ calls
        ({"config": []}, "config is a list"),
        ({"config": {"width": 4}}, r"has shape \[4, 3\], expected \[4, 4\]"),
        ({"format": 99}, "format 99, this version reads 1"),
        ({"class": 3}, "holds a 3"),
    ],
)
def test_a_config_that_does_not_fit_is_one_plain_error(folder, change, message):
    spoil_config(folder, **change)
    with pytest.raises(ValueError, match=message) as refused:
        load_model(folder, Tiny)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [field.name for field in fields(TinyConfig)])
def test_a_field_that_is_missing_is_named_and_no_default_steps_in(folder, name):
    place = folder / "config.json"
    content = json.loads(place.read_text())
    del content["config"][name]
    place.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"missing \['{name}'\]"):
        load_model(folder, Tiny)


def test_sizes_are_compared_before_memory_is_taken(folder):
    spoil_config(folder, config={"width": 3_000_000_000_000})
    with pytest.raises(ValueError, match=r"has shape \[4, 3\], expected \[4, 3000000000000\]"):
        load_model(folder, Tiny)


def test_what_cannot_be_sketched_takes_no_memory(folder, monkeypatch):
    def build(self, config):
        if torch.empty(()).device.type != "meta":
            raise AssertionError("built with memory")
        raise KeyError("rope")

    monkeypatch.setattr(Tiny, "__init__", build)
    build.__annotations__ = {"config": TinyConfig}
    with pytest.raises(ValueError, match="no Tiny can be built from its config: 'rope'"):
        load_model(folder, Tiny)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"class": "Tiny"}'])
def test_a_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder, Tiny)


def test_keys_are_strict(folder):
    place = folder / "model.safetensors"
    state = load_file(place)
    for spoiled, message in (
        ({key: t for key, t in state.items() if key != "norm.bias"}, "missing: norm.bias"),
        (state | {"extra": torch.ones(1)}, "unexpected: extra"),
        (state | {"norm.weight": torch.ones(3, dtype=torch.int64)}, "norm.weight is torch.int64 in the file"),
    ):
        save_file(spoiled, place)
        with pytest.raises(ValueError, match=message):
            load_model(folder, Tiny)


def test_damaged_weights(folder):
    place = folder / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        load_model(folder, Tiny)
    place.unlink()
    with pytest.raises(OSError, match="there is no file"):
        load_model(folder, Tiny)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(OSError, match="there is no folder"):
        load_model(tmp_path / "absent", Tiny)
    with pytest.raises(OSError, match="is not a model folder"):
        load_model(tmp_path, Tiny)
    with pytest.raises(OSError, match="there is no folder"):
        load_model("owner/absent", Tiny)  # with a separator it is a path


def test_without_a_separator_it_is_a_hub_name(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(folder.parent)
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.append(repository)
        if repository == "absent":
            raise RuntimeError("404\nmore")
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert isinstance(load_model("tiny", Tiny), Tiny)
    assert isinstance(load_model("hub:owner/tiny", Tiny), Tiny)
    assert isinstance(load_model("./model", Tiny), Tiny)
    assert isinstance(load_model("model", Tiny), Tiny)  # a folder that is here comes before the hub
    assert isinstance(load_model(Path("model"), Tiny), Tiny)
    assert asked == ["tiny", "tiny", "owner/tiny", "owner/tiny"] or asked == ["tiny", "owner/tiny"]
    with pytest.raises(OSError, match=r"'absent': 404$"):
        load_model("absent", Tiny)
    Path("notes.txt").write_text("no model")
    with pytest.raises(OSError, match=r"notes\.txt is a file, not a model folder"):
        load_model("notes.txt", Tiny)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"'tiny' is a hub name \(there is no folder tiny here\).*pip install"):
        load_model("tiny", Tiny)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="no config dataclass"):
        save_model(nn.Linear(1, 1), tmp_path / "model")
    with pytest.raises(ValueError, match=r"config\.json of Tiny cannot be written"):
        save_model(Tiny(CONFIG), tmp_path / "model", provenance={"object": object()})
    assert not list(tmp_path.iterdir())


def test_configs_as_json():
    assert decode(TinyConfig, json.loads(json.dumps(encode(CONFIG))), "config") == CONFIG
    small = encode(TinyConfig(1)) | {"grid": None, "size": 4}
    assert decode(TinyConfig, small, "config") == TinyConfig(1, size=4)
    assert isinstance(decode(Head, {"width": 1, "scale": 2}, "head").scale, float)


# ---- official files ----

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


class Struct:
    """Stands for a project's settings class, pickled beside the weights."""

    def __init__(self, **entries):
        self.__dict__.update(entries)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("executed",)


class Surprise:
    """A class that no allow-list names."""

    def __init__(self):
        self.value = 1


def same_state(state) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.fixture
def foreign(monkeypatch):
    """Pickles under the name of a module that is not there when the file is read."""

    def save(content, path, **options):
        module = types.ModuleType("utils_of_others")
        for kind in (Struct, Surprise):
            setattr(module, kind.__name__, kind)
            monkeypatch.setattr(kind, "__module__", module.__name__)
        sys.modules[module.__name__] = module
        try:
            torch.save(content, path, **options)
        finally:
            del sys.modules[module.__name__]
        return path

    return save


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_namespace_is_read_as_values(tmp_path, foreign, zipped):
    settings = Struct(D_feat=384, nested=Struct(x=1), args=argparse.Namespace(lr=0.1), path=Path("/data"))
    content = {"model": STATE, "optimizer": {"state": {}}, "epoch": 3, "config": settings, "best": np.float64(0.9)}
    path = foreign(content, tmp_path / "best.pth", _use_new_zipfile_serialization=zipped)
    assert same_state(read_official(path))
    assert "utils_of_others" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False])
def test_any_other_class_is_refused_by_name_unless_allowed(tmp_path, foreign, zipped):
    path = foreign({"model": STATE, "x": Surprise()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"is refused: it holds a utils_of_others\.Surprise"):
        read_official(path)
    assert same_state(read_official(path, allow=["Surprise"]))
    assert same_state(read_official(path, allow=["utils_of_others.Surprise"]))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "config": Trap()}, "trap.pth", _use_new_zipfile_serialization=zipped)
    Path("plain.pkl").write_bytes(pickle.dumps({"model": Trap()}))
    for name in ("trap.pth", "plain.pkl"):
        with pytest.raises(ValueError, match=r"refused|damaged"):
            read_official(name)
        with pytest.raises(ValueError, match=r"refused|damaged"):
            read_official(name, allow=["mkdir"])
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 1},
        {"model": {"state_dict": STATE}},
        {"model_state_dict": {f"module.{key}": t for key, t in STATE.items()}},
        {f"_orig_mod.{key}": t for key, t in STATE.items()},
    ],
)
def test_where_the_state_dict_may_be(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert same_state(read_official(path))


def test_a_key_names_another_place(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": {"x": torch.ones(1)}, "model_ema": STATE}, path)
    assert same_state(read_official(path, key="model_ema"))
    assert list(read_official(path)) == ["x"]
    with pytest.raises(ValueError, match="nothing under 'ema'; it holds model, model_ema"):
        read_official(path, key="ema")


def test_safetensors_and_dtypes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({key: t.half() if t.is_floating_point() else t for key, t in STATE.items()}, path)
    assert read_official(path)["a.weight"].dtype == torch.float16


@pytest.mark.parametrize("content", [{}, [1], {"model": 3}, {"a": torch.ones(1), "b": 3}, torch.ones(1)])
def test_files_without_a_state_dict(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="no state dict"):
        read_official(path)


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r"refused: it holds a torch\.nn\.modules\.linear\.Linear"):
        read_official(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    whole = path.read_bytes()
    for data in (b"", b"\x00" * 64, whole[: len(whole) // 2], whole[:-30], b"<html>not found</html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged") as caught:
            read_official(path)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
        other = tmp_path / "a.safetensors"
        other.write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            read_official(other)
    with pytest.raises(OSError, match="there is no file"):
        read_official(tmp_path / "absent.pth")


def test_rename_rules():
    state = renamed(STATE, {r"^a\.": "layer.0.", "count$": "steps"})
    assert list(state) == ["layer.0.weight", "layer.0.steps"]
    with pytest.raises(ValueError, match="two keys would be named 'a'"):
        renamed(STATE, {r"^a\..*": "a"})
