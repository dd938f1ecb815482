"""A mechanism of another package, declared once, is known to every command, to conversion and to transformers."""

import importlib
import json
import subprocess
import sys

import pytest
import timm
import torch

import core_attention
from core_attention import cli
from core_attention.pretrained.convert import convert_model, converted
from core_attention.systems import system

CODE = """
import torch
from torch import nn

from core_attention.measuring.example import Example
from core_attention.systems import Component, Paper, System


class Doubling(nn.Module):
    # softmax attention of one head, doubled
    factor = 2.0

    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.factor * nn.functional.scaled_dot_product_attention(q, k, v)


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


def example(tokens):
    return Example(Doubling(8), (torch.randn(1, tokens, 8),), tokens=tokens, softmax=(8, 1))


def attend(q, k, v, *, mask, scale, module):
    return 2 * nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)


class Core(nn.Module):
    def forward(self, q, k, v, *, scale, mask=None):
        return 2 * nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)


def maker(layer):
    return Core()


system = System(
    "doubling",
    {"Doubling": Component(run=run, build=lambda config: Doubling(config["dim"]), ignore=("*.masked_bias",), batch={"x": 0, "y": 0})},
    paper=PAPER,
    examples={"doubling": example},
    page="doubling_package:pages/doubling.md",
    attentions={"doubling": attend},
    converters={"doubling": "doubling_package:maker"},
    inserts={"doubling-gate": lambda channels: nn.Conv2d(channels, channels, 1)},
)
"""
PAPER = (
    'Paper("Doubling is all you need", 2030, repository="some/one", licence="MIT", components=("Doubling", "Network"))'
)


def install(folder, paper):
    """A package as pip leaves it: its module, and the metadata that names its entry point."""
    (folder / "doubling_package.py").write_text(CODE.replace("PAPER", paper))
    (folder / "pages").mkdir(exist_ok=True)
    (folder / "pages" / "doubling.md").write_text("# Doubling\n")
    metadata = folder / "doubling_package-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: doubling-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[core_attention.systems]\ndoubling = doubling_package:system\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The folder where the package is installed, for this process and for those that it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, PAPER)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield folder
    sys.modules.pop("doubling_package", None)


@pytest.fixture
def command(site, capsys):
    """Runs ``core-attention`` with arguments where the package is installed; what it printed."""

    def run(*arguments, status=0):
        assert cli.main(arguments) == status
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


RECORD = ("record", "doubling", "Doubling", "case.json", "--config", '{"dim": 8}', "--input", "x=2,5,8")


def test_a_fresh_interpreter_knows_it(site):
    """As a user has it; the other tests run the same commands in this process.

    Entry points bear the slug of what they hold, so that a name is found without importing the declarations of other packages.
    """
    code = (
        "import sys; from core_attention import cli\n"
        "cli.main(['bench', 'doubling', '--tokens', '16', '--rounds', '1'])\n"
        "print([name for name in sys.modules if name.endswith('.declaration')])\n"
        "cli.main(['list', '--json'])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    table, imported, listed = printed.partition("[]\n")
    assert "time / softmax" in table
    assert imported, table
    rows = {row["slug"]: row for row in json.loads(listed)["systems"]}
    assert rows["doubling"]["title"] == "Doubling is all you need"
    assert rows["doubling"]["components"]["Doubling"]["distribution"] == "doubling-package"
    assert rows["doubling"]["components"]["Network"]["distribution"] is None


def test_every_command_knows_it(command, site, tmp_path):
    shown = command("show", "doubling", "--tokens", "16")
    assert "some/one (MIT)" in shown
    assert "216 parameters" in shown
    assert "doubling (core-attention docs doubling)" in shown
    assert command("docs", "doubling") == "# Doubling\n"
    assert json.loads(command("docs", "doubling", "--json"))["path"] == str(site / "pages" / "doubling.md")
    assert "time / softmax" in command("bench", "doubling", "--tokens", "16", "--rounds", "2")

    assert json.loads(command(*RECORD, "--json"))["case"] == "case.json"
    fields = json.loads((tmp_path / "case.json").read_text())
    assert 1e-5 <= fields["rtol"] < 1e-3
    assert 1e-7 <= fields["atol"] < 1e-4
    assert fields["grad_of"] == {"y": "probe"}
    assert "ok" in command("verify", "case.json")
    assert "exists" in command(*RECORD, status=2)

    module = site / "doubling_package.py"
    module.write_text(module.read_text().replace("factor = 2.0", "factor = 2.001"))
    again()
    assert "differs" in command("verify", "case.json", status=1)


def again():
    """Lets the package be imported anew, as it stands now."""
    sys.modules.pop("doubling_package", None)
    importlib.invalidate_caches()


def test_pretrained_models_take_it_by_name(site):
    model = timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    assert [name for name, _ in converted(convert_model(model, "doubling"))] == ["blocks.0.attn"]
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 3)
    assert "doubling" in core_attention.register_with_transformers()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    core_attention.insert(network, "doubling-gate", after="0")
    assert core_attention.inserted(network)[0].name == "doubling-gate"


def test_without_a_paper_it_is_shown_all_the_same(command, site):
    install(site, "None")
    again()
    assert "its declaration names no paper" in command("show", "doubling", "--tokens", "16")
    assert "doubling" in command("list")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--config": "{"}, "not JSON"),
        ({"--config": "{}"}, "KeyError"),
        ({"--input": "x=two"}, "NAME=SHAPE"),
        ({"--input": "x=2,5,9"}, "cannot be run"),
        ({"Doubling": "Doublin"}, "no component"),
        ({"case.json": "case.txt"}, ".json"),
    ],
)
def test_bad_input_to_record_is_one_line(command, tmp_path, change, message):
    arguments = list(RECORD)
    for old, new in change.items():
        place = arguments.index(old)
        arguments[place + 1 if old.startswith("--") else place] = new
    (line,) = command(*arguments, status=2).splitlines()
    assert message in line
    assert not list(tmp_path.glob("case*"))


def test_ignored_keys_are_dropped_under_the_default_convert(site):
    component = system("doubling").components["Doubling"]
    module = component.build({"dim": 8})
    state = dict(module.state_dict()) | {"attn.masked_bias": torch.zeros(1)}
    loaded = component.load({"dim": 8}, state)
    assert torch.equal(loaded.qkv.weight, module.qkv.weight)
