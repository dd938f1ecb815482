"""Conformance of every registered component, driven by the registry and the golden cases: no package is named here.

Each committed case is replayed as recorded, and then its component is used as people will use it: under one seed twice, with a permuted batch,
under bf16 autocast, compiled, trained, saved and loaded. A component says in its registration what cannot hold (`unused`, `batch`); a test is
there only for what it applies to, so that a skipped one tells that something is missing here.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from replay import FILL, ROOT, Ready, committed_cases, floats, objective, ready, same_everywhere, shared_cases
from torch import Tensor

from core_attention import systems
from core_attention.checkpoints.folders import load_model, save_model
from core_attention.golden.replay import MissingInput, Row, UnknownComponent, verify
from core_attention.systems import StateError

CASES = committed_cases()


def component_of(path: Path) -> systems.Component | None:
    """As it is registered; None where its package cannot be imported, which `test_committed_case_passes` tells."""
    try:
        return systems.system(path.parent.name).components.get(json.loads(path.read_text())["component"])
    except ImportError:
        return None


COMPONENTS = {path: component_of(path) for path in CASES}
MODULES = [path for path, component in COMPONENTS.items() if component is not None and component.build is not None]
BATCHED = [path for path in MODULES if COMPONENTS[path].batch is not None]
TOO_LARGE = 290_000  # bytes of tensors beside which no JSON fits into the 300 kB of a tracked file


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def explain(path: Path, message: str, rows: tuple[Row, ...]) -> str:
    return "\n".join([f"{path}: {message}", *(f"  {row}" for row in rows if not row.ok)])


@pytest.fixture(params=CASES, ids=name_of)
def case(request) -> Ready:
    """A component ready to run on its committed case."""
    return ready_or_skipped(request.param)


@pytest.fixture(params=MODULES, ids=name_of)
def module_case(request) -> Ready:
    """The same, of components that are modules."""
    return ready_or_skipped(request.param)


@pytest.fixture(params=BATCHED, ids=name_of)
def batched_case(request) -> Ready:
    """The same, of components that declare a batch."""
    return ready_or_skipped(request.param)


def ready_or_skipped(path: Path) -> Ready:
    try:
        return ready(path)
    except MissingInput as missing:
        pytest.skip(f"needs {missing}")
    except UnknownComponent as unknown:
        pytest.skip(str(unknown))


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_committed_case_passes(path):
    result = verify(path)
    if result.status == "skipped":
        pytest.skip(result.message)
    assert result.status == "ok", explain(path, result.message, result.rows)


@pytest.mark.parametrize("slug", systems.slugs())
def test_every_recorded_case_passes(slug):
    """All cases of the registered components, where they are at hand."""
    components = systems.system(slug).components
    paths = [path for path in shared_cases(slug) if json.loads(path.read_text())["component"] in components]
    if not paths:
        pytest.skip(f"no recorded cases of {slug} here (CORE_ATTENTION_SHARED names the folder that holds papers/)")
    results = [verify(path) for path in paths]
    wrong = [r for r in results if r.status not in ("ok", "skipped")]
    assert not wrong, "\n".join(explain(r.path, r.message, r.rows) for r in wrong)
    if all(r.status == "skipped" for r in results):
        pytest.skip(results[0].message)


@pytest.mark.parametrize("slug", systems.slugs())
def test_every_component_can_be_imported_and_has_a_committed_case(slug):
    """Its smallest recorded case, unless that is too large for the repository."""
    system = systems.system(slug)
    assert not system.failures
    have = {json.loads(path.read_text())["component"] for path in CASES if path.parent.name == slug}
    recorded = [(json.loads(path.read_text())["component"], path) for path in shared_cases(slug)]
    for key in system.components.keys() - have:
        sizes = [path.with_suffix(".safetensors").stat().st_size for component, path in recorded if component == key]
        smallest = min(sizes, default=TOO_LARGE)
        assert smallest >= TOO_LARGE, f"{key} has no case under packages/*/tests/golden/{slug}"


@pytest.mark.parametrize("entry", systems.entries(), ids=lambda entry: entry.value.partition(":")[0])
def test_a_declaration_names_all_that_its_modules_hold(entry):
    part, failure = systems.load_entry(entry)
    assert part is not None, failure
    declared: dict[str, set[str]] = {}
    for key, holder in part.components.holders.items():
        assert isinstance(holder, str), f"{entry.value} imports {key}: name it by components_of"
        declared.setdefault(holder, set()).add(key)
    for module, keys in declared.items():
        assert set(import_module(module).components) == keys, module


def test_two_runs_under_one_seed_are_equal(case):
    with same_everywhere():
        first, second = case.run(), ready(case.case.path).run()
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(second[name])), name
        else:
            assert value == second[name] or value != value, name


def test_official_weights_load_strictly(module_case):
    component, config, state = module_case.component, module_case.case.config, module_case.case.state_dict
    with pytest.raises(StateError, match=r"no\.such\.key"):
        component.load(config, state | {"no.such.key": torch.zeros(3)})
    needed = [key for key in state if feeds_something(component, config, state, key)]
    for key in needed[:: max(1, len(needed) // 3)]:
        with pytest.raises(StateError, match=r".+"):
            component.load(config, {other: tensor for other, tensor in state.items() if other != key})


def feeds_something(component: systems.Component, config: systems.Config, state: systems.StateDict, key: str) -> bool:
    """Whether our state depends on this official key, and on no other of the same values, to which it would be tied."""
    tensor = state[key]
    if any(k != key and systems.same_values(t, tensor) for k, t in state.items()):
        return False
    changed = component.converted(config, state | {key: ~tensor if tensor.dtype == torch.bool else tensor + 1})
    before = component.converted(config, state)
    return any(not torch.equal(tensor, before[name]) for name, tensor in changed.items())


def test_permuting_the_batch_permutes_the_result(batched_case):
    axes = batched_case.component.batch
    inputs = {name: value for name, value in batched_case.inputs.items() if name in axes}
    assert any(isinstance(value, Tensor) for value in inputs.values()), f"none of the inputs is in batch={dict(axes)}"
    doubled = {name: torch.cat([v, scaled(v)], axes[name]) for name, v in inputs.items() if isinstance(v, Tensor)}
    size = next(v.shape[axes[name]] for name, v in doubled.items())
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    order = order.roll(1) if bool((order == torch.arange(size)).all()) else order
    permuted = {name: v.index_select(axes[name], order) for name, v in doubled.items()}
    plain = batched_case.run(batched_case.inputs | doubled)
    mixed = ready(batched_case.case.path).run(batched_case.inputs | permuted)
    checked = 0
    for name, axis in axes.items():
        if isinstance(plain.get(name), Tensor):
            expected, ours = plain[name].detach().index_select(axis, order), mixed[name].detach()
            scale = 1e-5 * max(1.0, float(expected.abs()[expected.abs() < FILL].max())) if expected.numel() else 0.0
            torch.testing.assert_close(
                ours, expected, rtol=1e-4, atol=scale, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
            checked += 1
    assert checked, f"none of the outputs {list(plain)} is in batch={dict(axes)}"


def one_sample(case: Ready) -> dict[str, Any]:
    """The inputs of a case with one sample of a declared batch, in evaluation: convolutions in bf16 take seconds per sample on CPUs."""
    inputs = dict(case.inputs)
    if case.case.mode == "eval":
        for name, axis in (case.component.batch or {}).items():
            if isinstance(inputs.get(name), Tensor):
                inputs[name] = inputs[name].narrow(axis, 0, 1)
    return inputs


def scaled(value: Tensor) -> Tensor:
    """Other objects of the same kind: floats a little smaller, integers as they are."""
    return value * 0.9 if value.is_floating_point() else value


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # RMSNorm: autocast costs it its kernel
def test_bf16_autocast_stays_finite(module_case):
    plain = module_case.float32()
    finite = {name: bool(value.isfinite().all()) for name, value in floats(plain.run()).items()}
    fresh = ready(module_case.case.path).float32()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = floats(fresh.run(one_sample(fresh)))
    for name, value in outputs.items():
        assert bool(value.isfinite().all()) or not finite[name], name


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(module_case):
    module, unused = module_case.module, module_case.component.unused
    total = objective(module_case.run())
    if total.requires_grad:
        total.backward()
    wrong = []
    for name, parameter in module.named_parameters():
        is_unused = any(fnmatchcase(name, pattern) for pattern in unused)
        if is_unused or not parameter.requires_grad or not parameter.numel():
            continue
        gradient = parameter.grad
        if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
            wrong.append(f"{name}: {'none' if gradient is None else float(gradient.double().norm())}")
    assert not wrong, wrong


@pytest.fixture(scope="session")
def compiled():
    """Asks a process without the import hook of the shape checks whether a compiled component equals itself."""
    command = [sys.executable, str(ROOT / "tests" / "compiling.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(path: Path) -> str | None:
            print(path, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, f"the compiling process ended with {process.wait()}"
            return json.loads(answer)

        yield ask


def test_compiled_it_is_the_same(module_case, compiled: Callable[[Path], str | None]):
    problem = compiled(module_case.case.path)
    assert problem is None, problem


def test_a_model_folder_round_trips(module_case, tmp_path):
    module = module_case.module
    # a part of a model, or another library's model, which saves itself
    theirs = hasattr(module, "save_pretrained") and not dataclasses.is_dataclass(module.config)
    if theirs or not hasattr(module, "config"):
        with pytest.raises(ValueError, match="has no config dataclass to save"):
            save_model(module, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        return
    loaded = load_model(save_model(module, tmp_path / "model"), type(module)).train(module_case.case.mode == "train")
    state = module.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == state[name].dtype, name
        assert torch.equal(tensor, state[name]), name
    expected, ours = module_case.run(), Ready(module_case.case, module_case.component, loaded, module_case.inputs).run()
    for name, value in floats(expected).items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(ours[name])), name
