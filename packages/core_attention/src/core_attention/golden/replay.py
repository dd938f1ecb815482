"""Replays golden cases: recorded calls of published components, with their gradients and updated state.

`verify` runs one case through the component that its system registers and compares everything recorded. What a case
holds and how values are compared is in ``docs/golden-cases.md``; reading is in `case`, comparing in
`compare`, and the two rules that generate weights in `weights`.
"""

import contextlib
import difflib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_attention.golden import compare
from core_attention.golden.case import Case, CaseError, MissingInput, Tensors, find_input_files, read_case
from core_attention.golden.compare import Row
from core_attention.golden.weights import generate
from core_attention.registry import systems
from core_attention.registry.systems import Component, StateDict, StateError

__all__ = [
    "Case",
    "CaseError",
    "MissingInput",
    "Result",
    "Row",
    "UnknownComponent",
    "find_component",
    "find_input_files",
    "generate",
    "read_case",
    "verify",
]


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Attributes:
        status: ``ok``, ``differs`` (a value differs, or the component raised), ``skipped`` (an input file is not here),
            ``unknown`` (no such component) or ``unusable`` (the file is not a valid case, or its keys do not fit).
        message: why, for every status but ``ok`` and plain differences.
        rows: one comparison a recorded value.
        config: the case's official configuration.
        parameters: how many parameters the built module has; 0 for a function.
        trace: the traceback of a component that raised.
    """

    path: Path
    status: str
    system: str = ""
    component: str = ""
    message: str = ""
    rows: tuple[Row, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0
    trace: str = ""

    @property
    def nearest(self) -> Row | None:
        """The row nearest its limit, or furthest beyond it."""
        return max(self.rows, key=lambda row: row.ratio, default=None)


def verify(path: Path, *, device: str | torch.device = "cpu", data: Path | None = None) -> Result:
    """Replays one case; never raises for what is wrong with the case or the component.

    Args:
        path: the case's JSON file.
        device: where the component runs.
        data: where input files are looked for, besides the ancestor folders of the case.
    """
    started = time.perf_counter()

    def result(status: str, message: str = "", **more: Any) -> Result:
        named = {}
        if case is not None:
            named = {"system": case.system, "component": case.component, "config": case.config}
        return Result(path, status, message=message, seconds=time.perf_counter() - started, **named, **more)

    case: Case | None = None
    try:
        case = read_case(path)
        files = find_input_files(case, data)
        component = find_component(case.system, case.component)
        with _reproducible(torch.device(device)):
            module = _loaded(case, component, torch.device(device))
            rows = tuple(_replay(case, component, module, files, torch.device(device)))
    except MissingInput as error:
        return result("skipped", f"needs {error}")
    except UnknownComponent as error:
        return result("unknown", str(error))
    except (CaseError, StateError) as error:
        return result("unusable", str(error))
    except (Exception, SystemExit) as error:
        return result("differs", f"raised {_one_line(error)}", trace=traceback.format_exc())
    parameters = 0
    if module is not None:
        parameters = sum(p.numel() for p in module.parameters())
    status = "ok" if all(row.ok for row in rows) else "differs"
    return result(status, rows=rows, parameters=parameters)


class UnknownComponent(LookupError):
    """No installed package registers the component."""


def find_component(slug: str, key: str) -> Component:
    """The registered component.

    Raises:
        UnknownComponent: with the known names, the nearest one, and what could not be imported and why.
        CaseError: two packages register it.
    """
    try:
        system = systems.system(slug)
    except ValueError as error:
        raise CaseError(str(error)) from error
    if key in system.components:
        try:
            return system.components[key]
        except (Exception, SystemExit) as error:  # whatever an import does, it is named in one line
            raise UnknownComponent(f"{slug}/{key} could not be imported: {_one_line(error)}") from error
    if not systems.entries(slug):
        message = f"no installed package registers the system {slug!r}; {_known(slug, systems.slugs())}"
    else:
        message = f"{slug} has no component {key!r}; {_known(key, sorted(system.components))}"
    failures = "".join(f"; {entry} could not be imported: {why}" for entry, why in system.failures.items())
    raise UnknownComponent(message + failures)


def _known(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    text = f"known: {', '.join(known) or 'none'}"
    if nearest:
        text += f"; nearest: {nearest[0]}"
    return text


class _Replay(nn.Module):
    """The module that `functional_call` calls: its forward is the component's `run`."""

    def __init__(self, module: nn.Module, run: Any, config: Mapping[str, Any], mode: str):
        super().__init__()
        self.module = module
        self._run, self._config, self._mode = run, config, mode
        self.after: StateDict = {}

    def forward(self, inputs: dict[str, Any]) -> Any:
        outputs = self._run(self.module, inputs, config=self._config, mode=self._mode)
        # functional_call puts the module's own tensors back when it returns: the updated state is only visible here
        self.after = {key: tensor.detach().clone() for key, tensor in _tensors_of(self.module).items()}
        return outputs


def _loaded(case: Case, component: Component, device: torch.device) -> nn.Module | None:
    """The component's module with the case's weights, strictly; None for a function."""
    official = _official(case, device)
    if component.build is None:
        if component.converted(case.config, official):
            raise StateError(f"{case.component} is a function, but the case holds a state dict for it")
        return None
    module = component.load(case.config, official)
    if not official and (dtype := systems.floating_dtype(case.input.values())):
        module = module.to(dtype)
    return module.to(device).train(case.mode == "train")


def _replay(
    case: Case, component: Component, module: nn.Module | None, files: dict[str, Path], device: torch.device
) -> Iterator[Row]:
    """Runs the component on the case and yields every comparison."""
    official = _official(case, device)
    twins = _twins(case, official)
    traced = set(case.grad_state)
    for same in twins.values():
        traced.update(same)
    leaves = dict(official)
    for key in traced & official.keys():
        leaves[key] = official[key].clone().requires_grad_()
    inputs: dict[str, Any] = {key: tensor.to(device, copy=True) for key, tensor in case.input.items()}
    for key in case.grad_input:
        inputs[key].requires_grad_()
    given = inputs | case.input_json | files

    after: StateDict = {}
    if module is None:
        outputs = component.run(None, given, config=case.config, mode=case.mode)
    else:
        replay = _Replay(module, component.run, case.config, case.mode)
        ours = _fitted(component.converted(case.config, leaves), module)
        named = {f"module.{key}": tensor for key, tensor in ours.items()}
        outputs = torch.func.functional_call(replay, named, (given,))
        after = replay.after
    if not isinstance(outputs, Mapping):
        raise TypeError(f"run returned {type(outputs).__name__}, expected a dict of outputs by name")

    yield from _output_rows(case, outputs)
    if case.grad_input or case.grad_state:
        inputs_first = {f"input/{key}": inputs[key] for key in case.grad_input}
        gradients = _gradients(case, outputs, inputs_first | {f"state_dict/{key}": leaves[key] for key in traced})
        yield from _gradient_rows(case, gradients, twins)
    if case.state_after:
        yield from _state_rows(case, component, official, after, device)


def _official(case: Case, device: torch.device) -> StateDict:
    """The case's state dict. A rule makes float32 weights; a case whose inputs are float64 runs in float64 all the same."""
    double = case.generated and systems.floating_dtype(case.input.values()) == torch.float64
    official = {}
    for key, tensor in case.state_dict.items():
        dtype = torch.float64 if double and tensor.is_floating_point() else tensor.dtype
        official[key] = tensor.to(device, dtype)
    return official


def _tensors_of(module: nn.Module) -> StateDict:
    """Parameters and buffers by name, a tied one under each of its names."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def _fitted(ours: StateDict, module: nn.Module) -> StateDict:
    """Our converted tensors as `functional_call` needs them: every one known, one of each tied group, in the module's
    dtype.

    Parameters without a recorded gradient become leaves that require one, as they are in the module: a published
    function may differentiate inside. Buffers are copied, since a training forward writes to them.
    """
    known = _tensors_of(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    fitted: StateDict = {}
    tied: set[int] = set()
    for key, tensor in ours.items():
        if key not in known:
            raise StateError(f"{key!r} is neither a parameter nor a buffer: its official gradient cannot be traced")
        if id(known[key]) in tied:
            continue
        tied.add(id(known[key]))
        tensor = tensor.to(known[key].dtype)
        if key not in parameters:
            tensor = tensor.clone()
        elif parameters[key].requires_grad and not tensor.requires_grad:
            tensor = tensor.clone().requires_grad_()
        fitted[key] = tensor
    return fitted


def _twins(case: Case, official: StateDict) -> dict[str, list[str]]:
    """For each graded official key the other keys that hold the same values: it may be tied to one of them."""
    twins = {}
    for key in case.grad_state:
        others = (other for other in official if other != key)
        twins[key] = [other for other in others if systems.same_values(official[other], official[key])]
    return twins


def _gradients(case: Case, outputs: Mapping[str, Any], leaves: Tensors) -> dict[str, Tensor | None]:
    """Gradients of the recorded objective; None where a tensor does not influence it."""
    objective: Tensor | None = None
    for name, weight in case.grad_of.items():
        output = outputs.get(name)
        if not isinstance(output, Tensor):
            raise TypeError(f"grad_of needs the output {name!r} as a tensor, run returned {type(output).__name__}")
        if weight == "probe":
            probe = case.probe[name].to(output)
            if probe.shape != output.shape and not probe.numel() == output.numel() == 1:
                raise ValueError(f"the output {name!r} has shape {list(output.shape)}, its probe {list(probe.shape)}")
            term = (output * probe.reshape(output.shape)).sum()
        else:
            term = float(weight) * output.sum()
        objective = term if objective is None else objective + term
    if objective is None or not objective.requires_grad:
        return dict.fromkeys(leaves)
    gradients = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, gradients, strict=True))


def _output_rows(case: Case, outputs: Mapping[str, Any]) -> Iterator[Row]:
    for name, recorded in case.output.items():
        row_name, rule = _rule(case, f"output/{name}")
        if name not in outputs:
            if not rule.optional:
                yield compare.failed(row_name, "is missing from what run returned")
            continue
        ours = _as_tensor(outputs[name])
        if ours is None:
            yield compare.failed(row_name, f"is a {type(outputs[name]).__name__}, recorded as a tensor")
            continue
        yield compare.compare_tensors(row_name, ours, recorded, rule, where=_where(case, rule))
    for name, recorded in case.output_json.items():
        row_name, rule = _rule(case, f"output/{name}")
        if name in outputs:
            yield compare.compare_json(row_name, outputs[name], recorded, rule)
        elif not rule.optional:
            yield compare.failed(row_name, "is missing from what run returned")


def _gradient_rows(case: Case, gradients: Mapping[str, Tensor | None], twins: Mapping[str, list[str]]) -> Iterator[Row]:
    """Compares gradients. Of tied official keys `convert` keeps one, and the gradient of either is the total: a key
    that has no influence of its own takes the gradient of a twin that has, unless it is recorded as zero."""
    recorded = {f"grad/input/{key}": tensor for key, tensor in case.grad_input.items()}
    recorded |= {f"grad/state_dict/{key}": tensor for key, tensor in case.grad_state.items()}
    sizes = {name: compare.rms(tensor) for name, tensor in recorded.items()}
    largest = max(sizes.values())
    for name, tensor in recorded.items():
        row_name, rule = _rule(case, name)
        kind, _, key = name.removeprefix("grad/").partition("/")
        ours = gradients[f"{kind}/{key}"]
        if ours is None and kind == "state_dict" and bool(tensor.any()):
            ours = next((g for twin in twins[key] if (g := gradients[f"state_dict/{twin}"]) is not None), None)
        if ours is None:
            ours = torch.zeros_like(tensor)
        norm_rule = sizes[name] > 0 and sizes[name] >= compare.TRUE_ZERO * largest
        yield compare.compare_tensors(row_name, ours, tensor, rule, where=_where(case, rule), norm_rule=norm_rule)


def _state_rows(
    case: Case, component: Component, official: StateDict, after: StateDict, device: torch.device
) -> Iterator[Row]:
    """Compares the updated state in our layout.

    Which of our tensors an official entry feeds is found by changing that entry and converting again, so that an
    entry that was recorded but did not change is compared too.
    """
    config = case.config
    before = component.converted(config, official)
    expected = component.converted(config, official | {k: v.to(device) for k, v in case.state_after.items()})
    for key in case.state_after:
        # which of ours an official entry becomes shows in what another value of it changes
        changed = official[key].logical_not() if official[key].dtype == torch.bool else official[key] + 1
        fed = component.converted(config, official | {key: changed})
        row_name, rule = _rule(case, f"state_after/{key}")
        for name, tensor in fed.items():
            if torch.equal(tensor, before[name]):
                continue
            row = row_name if name == key else f"{row_name} → {name}"
            if name in after:
                yield compare.compare_tensors(row, after[name], expected[name], rule, where=_where(case, rule))
            elif not rule.optional:
                yield compare.failed(row, f"our {name} is neither a parameter nor a buffer")


def _rule(case: Case, name: str) -> tuple[str, compare.Rule]:
    return name, compare.rule_for(name, case.compare, rtol=case.rtol, atol=case.atol)


def _where(case: Case, rule: compare.Rule) -> Tensor | None:
    return None if rule.where is None else case.where(rule.where)


def _as_tensor(value: Any) -> Tensor | None:
    """A recorded tensor may come back as a number or an array, such as a metric that a library computed."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool | int | float | np.ndarray | np.generic):
        return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    return None


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


@contextlib.contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """TF32 off, deterministic algorithms, seed 0, printing to stderr; everything as it was afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    deterministic = torch.get_deterministic_debug_mode()
    precision = torch.get_float32_matmul_precision()
    cudnn_tf32, cudnn_benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(sys.stderr):
        try:
            torch.manual_seed(0)
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
            # Some CUDA kernels have no deterministic form: they warn rather than fail a correct component.
            # Not use_deterministic_algorithms, which imports Inductor for seconds.
            torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
            yield
        finally:
            torch.set_deterministic_debug_mode(deterministic)
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = cudnn_tf32, cudnn_benchmark
