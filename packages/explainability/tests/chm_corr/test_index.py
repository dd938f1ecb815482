"""An index of pictures and queries against it: whatever the backbone, with both ways of matching, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core_runtime.errors import UserError
from explainability.chm_corr import index as index_module
from explainability.chm_corr.definition import match_pair
from explainability.chm_corr.features import Backbone, load_backbone, load_weights
from explainability.chm_corr.index import Index
from explainability.chm_corr.learner import CHMLearner
from explainability.chm_corr.masks import parse_mask, read_mask
from explainability.chm_corr.matching import CHMNet, load_chm, nearest_cells, state_of
from explainability.chm_corr.session import Rules, compare
from explainability.chm_corr.transfer import GRID
from explainability.commands.correspond import CorrespondOptions, correspond
from explainability.commands.index import index
from explainability.models.loading import save_network
from explainability.models.network import Network, NetworkConfig


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures of each of two classes: stripes of red or of green at a place of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    for channel, label in enumerate(("red", "green")):
        (folder / label).mkdir()
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 40, (40, 56, 3), dtype=np.uint8)
            pixels[..., channel] += 200
            pixels[4 * number : 4 * number + 9] //= 2
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"image_size": 56, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    network = Network(NetworkConfig(classes=("a", "b"), **sizes)).eval()
    return save_network(network, tmp_path_factory.mktemp("model") / "model", {})


@pytest.fixture(scope="module")
def made(pictures, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "index"
    result = index(pictures, model=str(model), out=out)
    assert result.code == 0, result.failed
    assert result.pictures == 12
    return out


RULES = CorrespondOptions(neighbours=10, voters=5)


def test_files_are_safe_and_half(made):
    (shard,) = (made / "shards").glob("*.safetensors")
    tensors = load_file(shard)
    assert tensors["cells"].dtype == tensors["embedding"].dtype == torch.float16
    assert tuple(tensors["cells"].shape) == (12, 16, GRID, GRID)
    opened = Index.open(made)
    assert opened.classes == ("green", "red")
    assert Image.open(__import__("io").BytesIO(opened.copy(3))).size == (56, 40)


def test_a_query_is_left_out_of_its_own_support(made, pictures, tmp_path):
    queries = tmp_path / "queries"
    for label in ("red", "green"):
        (queries / label).mkdir(parents=True)
        (queries / label / "3.png").write_bytes((pictures / label / "3.png").read_bytes())
    result = correspond(queries, index=made, corr=RULES, out=tmp_path / "out")
    assert result.code == 0, result.failed
    assert result.judged == 2
    assert result.accuracy["CHM-Corr"] == 1
    for answer in result.answers:
        assert any("itself in the index" in note for note in answer["notes"])
        assert answer["picture"] not in [pair["file"] for pair in answer["support"]]
    again = correspond(queries, index=made, corr=RULES, out=tmp_path / "out")
    assert {attempt.status for attempt in again.attempts} == {"already done"}


def test_masks_change_the_score_and_no_cell_is_no_edit(made, pictures):
    opened = Index.open(made)
    backbone, chm = opened.load_networks()
    file = pictures / "red" / "0.png"
    session = compare(opened, backbone, chm, Image.open(file), file.read_bytes(), Rules(10, 5))
    own = session.predict()
    assert torch.equal(session.predict(torch.zeros(GRID, GRID)).order, own.order)
    mask = parse_mask("1111111" * 2 + "0000000" * 5)
    edited = session.predict(mask)
    assert session.pairings(edited, mask, 1)[0].cells[0][0][0] in (0, 1)
    assert session.log[0]["user_mask"] is None
    assert all(line["seconds"] < 1 for line in session.log)
    votes = session.votes(edited)
    assert sum(votes.values()) == edited.k


def test_nearest_cells_of_a_copy_are_its_own_cells():
    torch.manual_seed(0)
    cells = torch.randn(32, GRID, GRID)
    places = nearest_cells(cells, torch.stack([cells, cells.flip(2)]))
    for point in range(49):
        x, y = divmod(point, GRID)
        assert places[0, point].tolist() == [x, y]
        assert places[1, point].tolist() == [GRID - 1 - x, y]


@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet10t",
        "torchvision:mobilenet_v3_small",
        pytest.param("timm:swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    ],
)
def test_any_backbone_gives_cells(name, tmp_path, monkeypatch):
    import timm
    import torchvision

    source, _, model = name.partition(":")
    torch.manual_seed(0)
    network = timm.create_model(model) if source == "timm" else torchvision.models.get_model(model)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in network.state_dict().items()}}, path)
    backbone = load_backbone(name, path)
    cells = backbone.cells(torch.randn(1, 3, *backbone.pictures.size))
    assert cells.shape[2:] == (GRID, GRID)
    assert cells.isfinite().all()
    with pytest.raises(UserError, match="does not fit the model"):
        load_weights(torch.nn.Linear(2, 2), path)


def test_the_learner_is_its_definition():
    torch.manual_seed(0)
    for kind in ("psi", "full"):
        model = CHMLearner(12, kind=kind).double().eval()
        source, target = torch.randn(1, 12, 4, 4).double(), torch.randn(2, 12, 4, 4).double()
        fast = model(source.expand(2, -1, -1, -1), target)
        for number in range(2):
            plain = match_pair(model, source, target[number : number + 1])
            assert torch.allclose(fast[number], plain, rtol=1e-9, atol=1e-12)
    fast.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_a_published_checkpoint_of_chm(tmp_path, pictures, model):
    """A grouped checkpoint loads as two trunks, and an index made with it answers."""
    torch.manual_seed(0)
    network = CHMNet("iso").eval()
    official = {}
    for name, tensor in network.source.state_dict().items():
        other = network.target.state_dict()[name]
        official[f"backbone.{name}"] = tensor if tensor.ndim == 0 else torch.cat([tensor, other])
    official["backbone.fc.weight"] = torch.zeros(2, 2)
    names = {"convolutions.": "conv2ds.", "votes6d.sets.": "chm6d.param.", "votes4d.sets.0": "chm4d.weight"}
    for name, tensor in network.learner.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        official[f"learner.{name.replace('votes6d.bias', 'chm6d.bias').replace('votes4d.bias', 'chm4d.bias')}"] = tensor
    assert set(state_of(official)) == set(network.state_dict())
    path = tmp_path / "pas_iso.pt"
    torch.save(official, path)
    loaded = load_chm(path)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.source(image), network.source(image))
    result = index(pictures, model=str(model), chm=path, out=tmp_path / "index")
    assert result.code == 0, result.failed
    query = pictures / "red" / "0.png"
    answers = correspond(
        query, index=tmp_path / "index", corr=CorrespondOptions(neighbours=2, voters=1), out=tmp_path / "o"
    )
    assert answers.code == 0


def test_what_is_refused(made, pictures, model, tmp_path):
    query = pictures / "red" / "0.png"
    with pytest.raises(UserError, match="the index holds 12 pictures"):
        correspond(query, index=made, corr=CorrespondOptions(neighbours=13, voters=5), out=tmp_path)
    with pytest.raises(UserError, match="--voters 9 of --neighbours 5"):
        correspond(query, index=made, corr=CorrespondOptions(neighbours=5, voters=9), out=tmp_path)
    with pytest.raises(UserError, match="without the query itself the index holds 11"):
        correspond(query, index=made, corr=CorrespondOptions(neighbours=12, voters=5), out=tmp_path)
    with pytest.raises(UserError, match="not an index"):
        correspond(query, index=tmp_path, corr=RULES, out=tmp_path)
    for text in ("", "01", "2" * 49, "1" * 48):
        with pytest.raises(UserError, match="needs 49 digits"):
            parse_mask(text)
    white = tmp_path / "mask.png"
    Image.new("L", (70, 70), 255).save(white)
    assert read_mask(str(white)).sum() == 49
    with pytest.raises(UserError, match="no such file, nor 49 digits"):
        read_mask("absent.png")
    assert not list(tmp_path.rglob("correspondence.json"))


def test_damaged_indices_are_one_line(made, pictures, model, tmp_path, monkeypatch):
    import shutil

    query = pictures / "red" / "0.png"

    def damaged(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy)
        change(copy)
        with pytest.raises(UserError) as error:
            correspond(query, index=copy, corr=RULES, out=tmp_path / "o")
        assert "\n" not in error.value.message
        return error.value.message

    assert "is damaged" in damaged(lambda folder: (folder / "index.json").write_text("{"))
    shard = "shards/00000.safetensors"
    assert "missing or damaged" in damaged(lambda folder: (folder / shard).unlink())
    assert "missing or damaged" in damaged(
        lambda folder: (folder / shard).write_bytes((made / shard).read_bytes()[:999])
    )

    def change(**values):
        def write(folder):
            content = json.loads((folder / "index.json").read_text())
            (folder / "index.json").write_text(json.dumps(content | values))

        return write

    assert "has format 9" in damaged(change(format=9))
    assert "do not hold its 12 pictures" in damaged(change(shards=[["../../x", 12]]))
    assert "label is of no class" in damaged(change(classes=["one"]))
    changed = json.loads((made / "index.json").read_text())["made_with"] | {"fingerprint": [0.5] * 16}
    assert "is not the model" in damaged(change(made_with=changed))


def test_a_folder_with_damaged_pictures_goes_on_when_they_are_mended(pictures, model, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(index_module, "SHARD", 256)
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "red" / "bad.png").write_bytes(b"no picture")
    (folder / "red" / "worse.png").write_bytes(b"")
    result = index(folder, model=str(model), out=tmp_path / "index")
    assert result.code == 1
    assert "2 of 14 pictures cannot be read" in next(iter(result.failed.values()))
    with pytest.raises(UserError) as error:
        Index.open(tmp_path / "index")
    assert "a rerun finishes" in error.value.hint
    for name in ("bad.png", "worse.png"):
        (folder / "red" / name).unlink()
    (folder / "green" / "copy.png").write_bytes((folder / "red" / "0.png").read_bytes())
    assert index(folder, model=str(model), out=tmp_path / "index").duplicates == 1


def test_a_backbone_without_places():
    class Flat(torch.nn.Module):
        def forward_features(self, x):
            return x.flatten(1)

    backbone = Backbone(Flat(), load_backbone.__globals__["Classifier"](Flat(), (8, 8), (0,), (1,)))
    with pytest.raises(UserError, match="no map of places"):
        backbone.cells(torch.zeros(1, 3, 8, 8))
