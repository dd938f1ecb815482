"""The command beside `verify`: list, show, bench, help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core_attention import attention, cli
from core_attention.measuring.bench import SoftmaxAttention
from core_attention.measuring.cost import profile
from core_attention.registry import systems
from core_attention.registry.catalogue import declared, papers


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def listed(capsys) -> dict:
    assert cli.main(["list", "--json"]) == 0
    return {row["slug"]: row for row in json.loads(capsys.readouterr().out)["systems"]}


def test_help_imports_nothing_heavy():
    code = (
        "import sys, core_attention.cli as c\n"
        "try: c.main(['verify', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "example: core-attention verify" in shown


def test_papers():
    pytest.importorskip("pathology_mil")  # the domains declare papers too
    assert len(papers()) == 36
    for slug, paper in papers().items():
        assert paper.title, slug
        assert paper.components, slug
        assert (paper.repository is None) == (paper.licence is None), slug


def test_list_names_every_system_and_its_holder(toy, capsys):
    rows = listed(capsys)
    assert set(papers()) | {"toy"} == set(rows)
    assert rows["toy"]["components"]["Toy"] == {"distribution": "unknown", "verified": None}
    assert cli.main(["list"]) == 0
    assert "toy" in capsys.readouterr().out


def test_list_says_verified_only_of_what_passed_here(toy, tmp_path, capsys):
    path, fields, tensors = toy.record(tmp_path)
    assert cli.main(["verify", str(path)]) == 0
    toy.write(tmp_path, "unknown", fields | {"component": "Other"}, tensors)
    assert cli.main(["verify", str(tmp_path / "unknown.json")]) == 2
    capsys.readouterr()
    components = listed(capsys)["toy"]["components"]
    assert set(components) == {"Toy", "total"}
    shown = components["Toy"]["verified"]
    assert shown["ok"]
    assert shown["cases"] == 1
    assert shown["config"] == {"width": 6, "dropout": 0.0}
    assert {"python", "torch"} <= set(shown["versions"])
    assert components["total"]["verified"] is None

    toy.write(tmp_path, "second", fields, tensors | {"output/y": tensors["output/y"] + 1})
    assert cli.main(["verify", str(tmp_path / "second.json")]) == 1
    capsys.readouterr()
    shown = listed(capsys)["toy"]["components"]["Toy"]["verified"]
    assert not shown["ok"]
    (failed,) = shown["failed"]
    assert (failed["case"], failed["folder"]) == ("second", str(tmp_path))
    assert failed["versions"]["torch"] == torch.__version__.partition("+")[0]
    for command in (["list"], ["show", "toy"]):
        assert cli.main(command) == 0
        printed = capsys.readouterr().out
        assert (
            f"toy/Toy: second of {tmp_path} failed on {failed['date'][:10]} (torch {failed['versions']['torch']}"
            in printed
        )


def test_a_case_cannot_make_records_elsewhere(toy, tmp_path):
    fields = {"system": "../../elsewhere", "component": "x", "input_files": {"f": "none"}, "output_json": {"y": 1}}
    toy.write(tmp_path, "case", fields, {})
    assert cli.main(["verify", str(tmp_path / "case.json")]) == 0
    assert not (tmp_path / "state").exists()
    assert not list(tmp_path.rglob("*elsewhere*"))


def test_an_unwritable_state_folder_costs_one_line(toy, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    path, _, _ = toy.record(tmp_path)
    assert cli.main(["verify", str(path)]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_broken_record_is_left_out(toy, tmp_path, capsys):
    place = tmp_path / "state" / "core-attention" / "verified" / "toy"
    place.mkdir(parents=True)
    for name, text in (("a", "{"), ("b", "[]"), ("c", "{}"), ("d", '{"component": "Toy"}')):
        (place / f"{name}.json").write_text(text)
    assert listed(capsys)["toy"]["components"]["Toy"]["verified"] is None


def test_a_package_that_cannot_be_imported_is_one_line(toy, capsys):
    toy.register(toy=ImportError("no module named heavy"))
    assert cli.main(["list"]) == 0
    out = capsys.readouterr()
    assert [line for line in out.err.splitlines() if "no module named heavy" in line] == out.err.splitlines()


def test_show_prices_a_mechanism(capsys):
    name, entry = next(iter(declared("examples").items()))
    assert cli.main(["show", name, "--tokens", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    cost = report["mechanisms"][name]
    assert cost["parameters"] > 0
    assert cost["macs"] > 0
    assert "memory" not in cost  # takes a process of its own: only if asked for
    assert report["system"]["slug"] == entry.slug
    assert cli.main(["show", name, "--tokens", "64", "--memory"]) == 0
    assert "beyond inputs and weights (forward, CPU)" in capsys.readouterr().out


def test_show_does_not_load_the_compiler():
    code = "import sys\nfrom core_attention.cli import main\nmain(['show', 'ela'])\nassert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_show_tells_what_is_published(capsys):
    pytest.importorskip("pathology_mil")  # declares the paper
    assert cli.main(["show", "acmil"]) == 0
    out = capsys.readouterr().out
    assert "Attention-Challenging" in out
    assert "dazhangyu123/ACMIL (MIT)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "rall"], "did you mean rala?"),
        (["bench", "rall"], "did you mean rala?"),
        (["show", "rala", "--tokens", "0"], "positive"),
        (["bench", "rala", "--tokens", "-1"], "positive"),
        (["bench", "rala", "--rounds", "0"], "positive"),
        (["bench", "rala", "--dtype", "int8"], "invalid choice"),
        (["bench", "rala", "--device", "moon"], "cannot be used"),
        (["shew"], "invalid choice"),
        (["show"], "required: name"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(capsys, arguments, message):
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_bench_prints_ratios(capsys):
    assert cli.main(["bench", "rala", "--tokens", "16", "--rounds", "2", "--backward"]) == 0
    assert "time / softmax" in capsys.readouterr().out


def test_macs_count_fused_attention_and_are_half_of_the_operations():
    tokens, width = 32, 8
    layer = SoftmaxAttention(width, 2)
    assert profile(layer, torch.zeros(1, tokens, width)).macs == 4 * tokens * width**2 + 2 * tokens**2 * width


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"example: core-attention {verb}" in " ".join(shown.split())
    assert "--json" in shown


def test_verbs_stand_each_in_its_own_file():
    files = Path(cli.__file__).parent.joinpath("commands").glob("*.py")
    assert set(cli.VERBS) == {path.stem for path in files} - {"__init__", "frame", "listing"}


HEAVY = "{'torch', 'numpy', 'timm', 'transformers', 'lightning', 'cv2', 'rasterio', 'matplotlib', 'monai', 'diffusers'}"


def test_listing_imports_no_heavy_library():
    """Declarations name what they declare; what builds or runs a component is imported when it is used."""
    code = (
        "import sys; from core_attention import cli; from core_attention.commands.listing import systems_table\n"
        "rows = systems_table(); assert not any(row['failures'] for row in rows), rows\n"
        f"assert cli.main(['list']) == 0; print({HEAVY} & set(sys.modules))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert listed.splitlines()[-1] == "set()"


def test_show_imports_what_it_shows_and_no_other_library():
    code = (
        "import sys; from core_attention import cli; assert cli.main(['show', 'ela', '--tokens', '64']) == 0\n"
        f"print({HEAVY} & set(sys.modules) - {{'torch', 'numpy'}})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "set()"


def test_a_component_whose_module_fails_is_one_line(toy, tmp_path, capsys):
    path, _, _ = toy.record(tmp_path)
    toy.register(toy=systems.System("toy", systems.components_of("no_such_package.official", "Toy")))
    assert listed(capsys)["toy"]["components"]["Toy"]["distribution"] == "unknown"
    assert cli.main(["verify", str(path)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert "toy/Toy could not be imported: ModuleNotFoundError" in line
    toy.register(toy=systems.System("toy", systems.components_of("core_attention.mechanisms.ela.official", "Toy")))
    assert cli.main(["verify", str(path)]) == 2
    assert "holds no component 'Toy', which its declaration names" in capsys.readouterr().out


def test_a_paper_is_declared_once(toy):
    paper = systems.Paper("Toys", 2020)
    toy.register(toy=systems.System("toy", paper=paper), toy_=systems.System("toy", paper=paper))
    with pytest.raises(ValueError, match="its paper is declared twice"):
        systems.system("toy")


def test_why(capsys):
    assert cli.main(["why", "1", "8", "64", "32", "--kv-heads", "2", "--mask", "causal & segments"]) == 0
    out = capsys.readouterr().out
    assert "1 × 8 heads (2 of keys) × 64 queries" in out
    assert "sdpa: taken" in out
    assert cli.main(["why", "1", "8", "64", "32", "--json", "--lse", "--grad"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["backend"] == "sdpa"
    assert {"reference", "triton"} <= set(answer["others"])
    for wrong, message in (
        (["--kv-heads", "3"], "dividing query heads"),
        (["--mask", "casual"], "unknown mask casual"),
        (["--dtype", "int8"], "unknown float dtype 'int8'"),
        (["--backend", "fast"], "unknown backend 'fast'"),
        (["--backend", "triton"], "cannot compute this attention"),
    ):
        assert cli.main(["why", "1", "8", "64", "32", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_verbose_tells_once_what_attention_took(caplog):
    q = torch.zeros(1, 1, 7, 3)
    with caplog.at_level("INFO", logger="core_attention"):
        attention(q, q, q)
        attention(q, q, q)
    (record,) = caplog.records
    assert "sdpa: taken" in record.message


def test_docs_come_with_the_package(capsys):
    assert cli.main(["docs"]) == 0
    listed = capsys.readouterr().out
    assert "mechanisms/ela " in listed
    for spelling in ("capture", "capture.md", "../../docs/capture.md"):
        assert cli.main(["docs", spelling]) == 0
        assert capsys.readouterr().out.startswith("# Attention maps")
    # a mechanism by each of its names, and a system
    for spelling, title in (
        ("moba", "# Mixture of blocks"),
        ("MVPA", "# MVPA"),
        ("rala", "# RALA: rank"),
        ("eurosat_bmta", "# Balanced"),
    ):
        assert cli.main(["docs", spelling]) == 0
        assert capsys.readouterr().out.startswith(title)
    assert cli.main(["docs", "mechanisms/README.md", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "mechanisms"


@pytest.mark.parametrize(
    ("name", "answer"),
    [("captur", "did you mean capture"), ("", "not a page"), ("README", "not a page")],
)
def test_docs_refuses_what_names_no_page(name, answer, capsys):
    assert cli.main(["docs", name]) == 2
    assert answer in capsys.readouterr().err


def test_every_mechanism_shows_a_page_that_is_there():
    for name, entry in declared("examples").items():
        assert entry.page is None or (cli.docs.FOLDER / "mechanisms" / entry.page).exists(), name
