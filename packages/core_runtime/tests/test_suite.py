import json
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from core_runtime import domains, suite
from core_runtime.cli import run
from core_runtime.domains import Check, Claim, DemoResult, Domain
from core_runtime.errors import UserError
from core_runtime.findings import Findings

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def glance(path):
    if path.stat().st_size == 0:
        raise UserError(f"{path.name} is empty", "copy it again")
    return Findings(
        title="A toy",
        kind="toy file",
        summary="usable",
        details={"size": 3},
        pictures=[(PNG, "p")],
        next_commands=["toy predict x"],
        warnings=["small"],
    )


def demo(out, *, full, seed, overwrite):
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").touch()
    return DemoResult("it works", out / "report.html", [(PNG, "p")], ["model", "auc"], [["toy", 1.0]], {"auc": 1.0})


def claim(path):
    certainty = {".toy": 0.9, ".png": 0.2}.get(path.suffix)
    return certainty and Claim("toy file", certainty, "its ending")


def domain(name, **changes):
    """A domain whose rooms are functions here."""
    rooms = {"recognises": claim, "glance": glance, "demo": demo, "doctor": lambda: [Check("toy", True)]} | changes
    methods = {room: staticmethod(function) for room, function in rooms.items()}
    kind = type("Toy", (Domain,), methods)
    return kind(name=name, package="x", question="Is it a toy?", claim="x:claim", kinds="toy files (.toy)")


toy = domain("toy")
pictures = domain("pictures", recognises=lambda p: Claim("picture", 0.3) if p.suffix in (".png", ".toy") else None)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    broken = EntryPoint("broken", "no_such_module:domain", domains.GROUP)
    here = EntryPoint("toy", f"{__name__}:toy", domains.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals().get(self.name) or __import__(self.module))
    registered = [here]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: registered)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, with_broken=False, also=()):
        registered[:] = [here, *(EntryPoint(n, "x", domains.GROUP) for n in also), *([broken] if with_broken else [])]
        with pytest.raises(SystemExit) as end:
            run(suite.app, [str(a) for a in arguments])
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return call


def test_a_domain_finds_its_rooms_by_the_name_of_its_package(monkeypatch, tmp_path):
    rooms = {
        "x.y.commands.inspect": {"glance": glance},
        "x.y.commands.demo": {"demo": demo},
        "x.y.files": {"claim": claim},
    }
    for name, functions in rooms.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))
    note = Check("weights", True)
    here = Domain(
        name="x y",
        package="x.y",
        question="?",
        claim="x.y.files:claim",
        needs={"json": "text", "no_such_module": "slides"},
        extras={"no_such_extra": "maps"},
        notes=[note],
    )
    file = tmp_path / "a.toy"
    file.write_text("abc")
    assert here.recognises(file) == Claim("toy file", 0.9, "its ending")
    assert here.glance(file).title == "A toy"
    assert here.demo(tmp_path / "out", full=False, seed=0, overwrite=False).headline == "it works"
    assert here.app == "x.cli:app"
    checks = {check.name: check.ok for check in here.doctor()}
    assert checks == {"json": True, "no_such_module": False, "no_such_extra": True, "torch": True, "weights": True}


def test_list_and_doctor_name_a_broken_package_in_one_line(call):
    assert call("list")[0] == 0
    code, out, _ = call("doctor", with_broken=True)
    assert code == 1
    assert [line[:7] for line in out.splitlines()] == ["MISSING", "ok     "]
    assert json.loads(call("list", "--json", with_broken=True)[1])["broken"].keys() == {"broken"}


def test_try_writes_a_report_with_the_next_command(call, tmp_path):
    (tmp_path / "täst.toy").write_text("abc")
    code, out, _ = call("try", "täst.toy")
    assert code == 0
    assert "Next: toy predict x" in out
    assert "toy predict x" in (tmp_path / "try-täst" / "report.html").read_text()
    assert json.loads(call("try", "täst.toy", "--json")[1])["facts"] == {"size": 3}


def test_try_says_what_it_knows(call, tmp_path):
    (tmp_path / "x.unknown").write_text("something")
    (tmp_path / "empty.toy").touch()
    code, _, err = call("try", "x.unknown")
    assert code == 2
    assert "no installed domain knows this kind of file" in err
    assert "commands: toy" in err
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    assert "is the folder of a run" in call("try", "run")[2]
    assert "is a model folder" in call("try", "run/model")[2]
    assert call("try", "empty.toy")[0] == 2
    assert not (tmp_path / "try-empty").exists()
    assert call("try", "absent.toy")[0] == 2


def test_demo_reports_what_ran_and_what_did_not(call, tmp_path):
    code, out, _ = call("demo", "out")
    assert code == 0
    assert "toy: it works" in out
    assert 'href="toy/report.html"' in (tmp_path / "out" / "report.html").read_text()
    code, _, err = call("demo", "out2", with_broken=True)
    assert code == 1
    assert "broken" in err
    assert call("demo", "out3", "--only", "nix")[0] == 2


def test_try_asks_every_domain_and_the_surest_answers(call, tmp_path):
    (tmp_path / "a.toy").write_text("abc")
    (tmp_path / "b.png").write_bytes(PNG)
    made = json.loads(call("try", "a.toy", "--json", also=["pictures"])[1])
    assert (made["domain"], made["certainty"]) == ("toy", 0.9)
    assert [other["domain"] for other in made["others"]] == ["pictures"]
    _, out, _ = call("try", "a.toy", also=["pictures"])
    assert "pictures inspect" not in out
    _, out, _ = call("try", "b.png", also=["pictures"])
    assert "toy inspect b.png" in out
    assert "pictures inspect b.png" in out
    assert "pictures inspect b.png" in (tmp_path / "try-b" / "report.html").read_text()


def test_a_demo_that_fails_leaves_the_others_and_its_details(call, tmp_path, monkeypatch):
    def fails(out, **options):
        raise RuntimeError("secret")

    monkeypatch.setitem(globals(), "pictures", domain("pictures", demo=fails))
    code, _, err = call("demo", "out", "--workers", "1", also=["pictures"])
    assert code == 1
    assert "RuntimeError" in err
    assert "secret" not in err
    assert "secret" in (tmp_path / "out" / "error.log").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "it works" in page
    assert "did not run" in page
