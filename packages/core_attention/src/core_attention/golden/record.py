"""Writes a golden case from a registered component: what it computes in float64, with tolerances that float32 meets.

`record` is the Python function, ``core-attention record`` the command. A case of one's own component holds its behaviour fast; a case of
a *published* one must be recorded from the published code instead (``docs/golden-cases.md``), or it only compares a module with itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core_attention.golden.case import CaseError
from core_attention.golden.compare import TRUE_ZERO, rms
from core_attention.golden.replay import UnknownComponent, find_component
from core_attention.registry.systems import Component, StateError, same

RTOL, ATOL = 1e-5, 1e-7  # the defaults of a case, below which no tolerance goes
MARGIN = 4  # other machines and threads round in another order


class RecordingError(ValueError):
    """What keeps a case from being recorded, in one line."""


def record(
    path: Path,
    system: str,
    component: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    mode: str = "eval",
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs a component once in float64 and once in float32, and writes the float64 result as a case of float32 tensors.

    Args:
        path: the case's ``.json``; its tensors go beside it.
        system: slug of a registered system.
        component: key of one of its components.
        config: the official constructor arguments.
        inputs: tensors and JSON values by name, as the component's `run` takes them.
        state: official weights; None: those that `build` makes under `seed`, where our keys are the official ones.
        mode: "eval" or "train".
        seed: of `build`, of what is drawn inside the run, and of the probes.
        overwrite: whether a case that exists may be replaced.

    Returns:
        the fields of the JSON file.

    Raises:
        RecordingError: an unknown component, inputs or weights that do not fit, a run that is not deterministic in what it selects, or a
            file that exists; nothing is written.
    """
    tensors_path = path.with_suffix(".safetensors")
    if path.suffix != ".json":
        raise RecordingError(f"a case is a .json file, got {path}")
    if not overwrite and (path.exists() or tensors_path.exists()):
        raise RecordingError(f"{path} exists: choose another name, or pass --overwrite")
    try:
        part = find_component(system, component)
        if state is None:
            state = _built_state(part, config, seed)
        exact = _run(part, config, inputs, state, mode, seed, torch.float64)
        single = _run(part, config, inputs, state, mode, seed, torch.float32)
    except RecordingError:
        raise
    except (UnknownComponent, CaseError, StateError) as error:
        raise RecordingError(str(error)) from error
    except Exception as error:  # whatever a component raises on inputs that do not fit it
        raise RecordingError(
            f"{system}/{component} cannot be run: {type(error).__name__}: {_one_line(error)}"
        ) from error
    rtol, atol = _tolerances(exact, single)
    fields: dict[str, Any] = {"system": system, "component": component, "official": None}
    fields |= {"config": dict(config), "mode": mode, "rtol": rtol, "atol": atol, "seed": seed}
    fields["input_json"] = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    fields["output_json"] = exact.values
    if exact.grads:
        fields["grad_of"] = dict.fromkeys(exact.probes, "probe")
    fields["notes"] = (
        "Recorded from this implementation in float64; rtol and atol are what its float32 run needs, with a margin."
    )
    sections = {"state_dict": state, "input": {n: v for n, v in inputs.items() if isinstance(v, Tensor)}}
    sections |= {"output": exact.outputs, "probe": exact.probes, "grad": exact.grads, "state_after": exact.state_after}
    tensors: dict[str, Tensor] = {}
    for section, entries in sections.items():
        for name, tensor in entries.items():
            tensors[f"{section}/{name}"] = _stored(tensor)
    _write(path, json.dumps(fields, indent=1).encode(), tensors_path, save(tensors))
    return fields


def record_files(
    system: str,
    component: str,
    path: Path,
    *,
    config: str,
    inputs: Path | None,
    shapes: Sequence[str],
    weights: Path | None,
    mode: str,
    seed: int,
    overwrite: bool,
) -> dict[str, Any]:
    """`record` with what the command line gives: JSON text or files, and shapes of random inputs.

    Raises:
        RecordingError: as `record`, or a file or shape that cannot be read.
    """
    text = config
    if not config.lstrip().startswith("{"):
        text = _read_text(Path(config))
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise RecordingError(f"--config is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise RecordingError("--config is a JSON object of constructor arguments")
    given: dict[str, Any] = _read_tensors(inputs) if inputs is not None else {}
    generator = torch.Generator().manual_seed(seed)
    for shape in shapes:
        name, _, sizes = shape.partition("=")
        try:
            given[name] = torch.randn([int(size) for size in sizes.split(",")], generator=generator)
        except (ValueError, RuntimeError) as error:
            raise RecordingError(f"--input {shape!r} is not NAME=SHAPE, such as x=2,16,32") from error
    if not given:
        raise RecordingError("a case needs inputs: pass --inputs FILE.safetensors or --input NAME=SHAPE")
    state = _read_tensors(weights) if weights is not None else None
    return record(
        path, system, component, config=settings, inputs=given, state=state, mode=mode, seed=seed, overwrite=overwrite
    )


class _Outcome:
    """What one run gave, under official names."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.values: dict[str, Any] = {}
        self.probes: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}
        self.state_after: dict[str, Tensor] = {}


class _Runs(nn.Module):
    """Makes `run` the forward of a module, so that `functional_call` can put official weights into it."""

    def __init__(self, part: Component, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.part = part

    def forward(self, inputs: dict[str, Any], config: Mapping[str, Any], mode: str) -> dict[str, Any]:
        return self.part.run(self.module, inputs, config=config, mode=mode)


def _built_state(part: Component, config: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """The weights that `build` makes; official keys are ours only under the default `convert`."""
    if part.build is None:
        return {}
    if part.convert is not same:
        raise RecordingError("this component renames its weights: pass official weights (--weights FILE.safetensors)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = part.build(config)
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def _run(
    part: Component,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    state: Mapping[str, Tensor],
    mode: str,
    seed: int,
    dtype: torch.dtype,
) -> _Outcome:
    """One run and its gradients in `dtype`, from leaves under official names as `verify` makes them."""
    # float32 first, so that both runs start from the same numbers, those that are stored
    leaves = {key: _as_leaf(tensor, dtype) for key, tensor in state.items()}
    given = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            given[name] = _as_leaf(value, dtype)
    outcome = _Outcome()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if part.build is None:
            results = part.run(None, dict(given), config=config, mode=mode)
        else:
            module = part.load(config, {key: leaf.detach() for key, leaf in leaves.items()}).train(mode == "train")
            before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
            ours = part.converted(config, leaves)
            torch.manual_seed(seed)
            runs = _Runs(part, module)
            # buffers stay the module's own: what the run updates is read from it afterwards
            parameters = {f"module.{name}": ours[name] for name, _ in module.named_parameters() if name in ours}
            results = torch.func.functional_call(runs, parameters, (dict(given), config, mode))
            for key, tensor in module.state_dict().items():
                if not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(before[key])):
                    if key not in state:
                        raise RecordingError(f"the run changes {key}, which has no official key of that name")
                    outcome.state_after[key] = tensor.clone()
    generator = torch.Generator().manual_seed(seed + 1)
    objective = torch.zeros((), dtype=dtype)
    for name, value in results.items():
        if not isinstance(value, Tensor):
            outcome.values[name] = value
            continue
        outcome.outputs[name] = value.detach()
        if value.requires_grad:
            probe = torch.randn(value.shape, generator=generator).to(dtype)
            outcome.probes[name] = probe
            objective = objective + (probe * value).sum()
    if not objective.requires_grad:
        return outcome
    named = {f"state_dict/{key}": leaf for key, leaf in leaves.items() if leaf.requires_grad}
    named |= {f"input/{name}": v for name, v in given.items() if isinstance(v, Tensor) and v.requires_grad}
    gradients = torch.autograd.grad(objective, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is not None:
            outcome.grads[name] = gradient
    return outcome


def _as_leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().float().to(dtype).requires_grad_()


def _tolerances(exact: _Outcome, single: _Outcome) -> tuple[float, float]:
    """The rtol and atol that the float32 run needs, with a margin.

    ``|a - b| <= atol + rtol · |b|`` must hold everywhere. What float32 loses grows with the largest values that a sum passes through, so
    `atol` follows the worst difference of elements below a tensor's rms, and `rtol` that of the others. A gradient that is truly zero, such
    as that of a key's bias under softmax, is rounding noise in both runs: nothing of it is large.
    """
    rtol, atol = RTOL, ATOL
    noise = TRUE_ZERO * max((rms(grad) for grad in exact.grads.values()), default=0.0)
    for kind in ("outputs", "grads", "state_after"):
        expected, actual = getattr(exact, kind), getattr(single, kind)
        for name, b in expected.items():
            a = actual[name]
            if not b.is_floating_point():
                if not torch.equal(a, b):
                    raise RecordingError(
                        f"{name} differs between float32 and float64: draw inputs whose selections are not so near a tie"
                    )
                continue
            finite = b.isfinite() & (b.abs() < 1e8)
            difference, size = (a.double() - b).abs()[finite], b.abs()[finite]
            if not difference.numel():
                continue
            large = size >= rms(b[finite])
            if kind == "grads" and rms(b) < noise:
                large = torch.zeros_like(large)
            if bool((~large).any()):
                atol = max(atol, MARGIN * float(difference[~large].max()))
            if bool(large.any()):
                relative = difference[large] / size[large].clamp_min(1e-300)
                rtol = max(rtol, MARGIN * float(relative.max()))
    # beyond this a wrong module would pass too; such a component needs inputs that float32 can represent better
    if rtol > 1e-2:
        raise RecordingError(
            f"the float32 run differs from float64 by {rtol / MARGIN:.1g} of a value: draw better conditioned inputs"
        )
    return float(f"{rtol:.1e}"), float(f"{atol:.1e}")


def _stored(tensor: Tensor) -> Tensor:
    """Float tensors are stored in float32, as the case is replayed."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise RecordingError(f"{path} cannot be read: {_one_line(error)}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"--config is neither JSON nor a file that can be read: {path}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _write(path: Path, fields: bytes, tensors_path: Path, tensors: bytes) -> None:
    """Both files whole or neither; the JSON comes last, since a case is found by it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, content in ((tensors_path, tensors), (path, fields)):
            unfinished = target.with_name(f".{target.name}.{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(target)
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror}") from error
