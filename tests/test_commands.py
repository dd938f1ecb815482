"""Every installed domain obeys the grammar, none of them named here: verbs, options, exit statuses, one-line errors, light imports, samples, demos."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from grammar import EVERYWHERE, HEAVY, VERBS, call, installed, needs_an_argument, options_of, verbs_of

DOMAINS = installed()
each_domain = pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
each_verb = pytest.mark.parametrize(
    ("domain", "verb"), [(d, v) for d in DOMAINS for v in VERBS], ids=lambda x: getattr(x, "name", x)
)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder of the domain's own sample data, made once."""
    made: dict[str, Path] = {}

    def make(domain) -> Path:
        if domain.name not in made:
            folder = tmp_path_factory.mktemp("samples") / "sämple data"
            result = call(domain, "sample", folder, "--json")
            assert result.code == 0, result.err
            json.loads(result.out)
            made[domain.name] = folder
        return made[domain.name]

    return make


def first_file(domain, folder: Path) -> Path:
    return next(p for p in sorted(folder.rglob("*")) if p.is_file() and domain.recognises(p))


def test_there_is_a_domain():
    assert DOMAINS


@each_verb
def test_verbs_and_their_options(domain, verb):
    verbs = verbs_of(domain)
    assert verb in verbs, f"{domain.name} has no verb {verb}"
    assert (VERBS[verb] | EVERYWHERE) - options_of(verbs[verb]) == set()


@each_domain
def test_every_verb_has_help_with_an_example_and_says_more_than_its_name(domain):
    for name in verbs_of(domain):
        text = call(domain, name, "--help").out
        assert len(text) > 200, name
        assert "Example" in text, f"{domain.name} {name}: --help shows no example"


@each_domain
def test_help_imports_nothing_heavy(domain):
    code = (
        f"import sys; from importlib import import_module as load; sys.argv = {[*domain.name.split(), '--help']!r}\n"
        f"from core_runtime.cli import run\n"
        f"try: run(load({domain.app.partition(':')[0]!r}).app)\n"
        f"except SystemExit: pass\n"
        f"from core_runtime.domains import domains; domains()\n"
        f"print('HEAVY', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert end.stdout.splitlines()[-1] == "HEAVY"


@each_domain
def test_unusable_inputs_end_in_one_line(domain, tmp_path):
    empty, noise, text = tmp_path / "empty.bin", tmp_path / "nöise.bin", tmp_path / "text.svs"
    empty.touch()
    noise.write_bytes(bytes(range(256)) * 64)
    text.write_text("not what the name says")
    (tmp_path / "nothing").mkdir()
    for path in (tmp_path / "absent", empty, noise, text, tmp_path / "nothing"):
        for arguments in (
            ["inspect", path],
            ["predict", path],
            ["predict", path, "--model", tmp_path / "no" / "model"],
        ):
            result = call(domain, *arguments)
            assert result.one_line_error, (arguments, result)
            result = call(domain, *arguments, "--json")
            assert result.code == 2
            assert json.loads(result.out).keys() == {"error", "hint"}
    assert {p.name for p in tmp_path.iterdir()} == {"empty.bin", "nöise.bin", "text.svs", "nothing"}, (
        "something was written"
    )


@each_verb
def test_unknown_options_and_missing_arguments_end_in_one_line(domain, verb):
    assert call(domain, verb, "--no-such-option").one_line_error
    if needs_an_argument(verbs_of(domain)[verb]):
        assert call(domain, verb).one_line_error


@each_domain
def test_predict_without_a_model_says_how_to_get_one(domain, samples):
    result = call(domain, "predict", first_file(domain, samples(domain)))
    assert result.one_line_error
    assert re.search(r"models|train", result.err)


@each_domain
def test_try_takes_the_folders_that_inspect_takes(domain, samples, tmp_path):
    from core_runtime.commands.try_file import try_file

    folder = samples(domain)
    if call(domain, "inspect", folder).code == 0:
        look = try_file(folder, out=tmp_path / "look", open_report=False)
        assert look.findings.usable
        assert domain.name in {claiming.name for claiming, _ in look.claims}


@each_domain
def test_samples_are_recognised_inspected_and_never_overwritten_silently(domain, samples):
    folder = samples(domain)
    file = first_file(domain, folder)
    result = call(domain, "inspect", file)
    assert result.code == 0, result.err
    assert result.out.strip()
    json.loads(call(domain, "inspect", file, "--json").out)
    assert call(domain, "sample", folder).one_line_error
    glance = domain.glance(file)
    assert glance.usable
    assert glance.pictures
    assert glance.next_commands


@each_domain
def test_samples_are_the_same_under_a_seed(domain, samples, tmp_path):
    assert call(domain, "sample", tmp_path / "again").code == 0
    first, second = (
        {p.relative_to(f): p.stat().st_size for p in f.rglob("*") if p.is_file()}
        for f in (samples(domain), tmp_path / "again")
    )
    assert first == second


@each_domain
def test_models_are_listed_with_licence_and_needs(domain):
    models = json.loads(call(domain, "models", "--json").out)["models"]
    assert all({"name", "licence", "size", "needs"} <= m.keys() for m in models)


@each_domain
def test_doctor_answers(domain):
    assert all(check.name for check in domain.doctor())


@each_domain
def test_demo_runs(domain, tmp_path):
    result = call(domain, "demo", tmp_path / "demo", "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    assert made["headline"]
    report = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in report
    assert not re.search(r'(src|href)="https?:', report), "a report is self-contained"
    models = list((tmp_path / "demo").rglob("model.safetensors"))
    assert models, "a demo leaves a model folder"
    assert all((m.parent / "config.json").is_file() for m in models)
    assert call(domain, "demo", tmp_path / "demo").one_line_error, "a demo is not overwritten silently"
    check_that_its_run_can_be_repeated(domain, tmp_path)


def check_that_its_run_can_be_repeated(domain, tmp_path):
    """``train --config RUN/config.yaml`` is the run again; here of one epoch, by an option that wins over the file."""
    config = next((tmp_path / "demo").rglob("config.yaml"))
    words = ["train", "--config", config, "--out", tmp_path / "again", "--epochs", 1]
    result = call(domain, *words)
    assert result.code == 0, result.err
    assert list((tmp_path / "again").rglob("model.safetensors"))
    first, second = (
        yaml.safe_load(path.read_text())["arguments"] for path in (config, tmp_path / "again" / "config.yaml")
    )
    assert first | {"epochs": 1} == second | {"epochs": 1}
    assert call(domain, *words).one_line_error, "a run is not overwritten silently"
