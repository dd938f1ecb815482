"""Reads a golden case, ``NAME.json`` beside ``NAME.safetensors``, and refuses what is not one.

The sections and fields are described in ``docs/golden-cases.md``. Whatever a case promises is checked here, before
anything runs: a gradient of a tensor that is absent, an objective without its probe or an unknown section make it
unusable, never quietly smaller.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core_attention.golden.compare import is_tolerance, parse_rules, rule_for, spread
from core_attention.golden.weights import generate

SHARED = "CORE_ATTENTION_SHARED"
SECTIONS = ("state_dict", "input", "output", "probe", "grad", "state_after")

Tensors = dict[str, Tensor]


class CaseError(ValueError):
    """A case that cannot be used as it stands: its file, not the component, is at fault."""


class MissingInput(Exception):
    """A case needs an input file that this machine does not have."""


@dataclass(frozen=True)
class Case:
    """One recorded call of a published component. Tensor sections are keyed without their prefix."""

    path: Path
    system: str
    component: str
    config: dict[str, Any]
    mode: str
    rtol: float
    atol: float
    grad_of: dict[str, float | str]
    compare: Mapping[str, Mapping[str, Any]]
    input_json: dict[str, Any]
    output_json: dict[str, Any]
    input_files: dict[str, str]
    generated: bool
    state_dict: Tensors = field(repr=False)
    input: Tensors = field(repr=False)
    output: Tensors = field(repr=False)
    probe: Tensors = field(repr=False)
    grad_input: Tensors = field(repr=False)
    grad_state: Tensors = field(repr=False)
    state_after: Tensors = field(repr=False)

    @property
    def recorded(self) -> Tensors:
        """Every tensor that is compared, under its full name."""
        sections = {
            "output/": self.output,
            "grad/input/": self.grad_input,
            "grad/state_dict/": self.grad_state,
            "state_after/": self.state_after,
        }
        stored = {}
        for prefix, tensors in sections.items():
            for key, tensor in tensors.items():
                stored[prefix + key] = tensor
        return stored

    def where(self, name: str) -> Tensor:
        """The recorded tensor that a rule's `where` names: an input, else an output."""
        return self.input[name] if name in self.input else self.output[name]


def read_case(path: Path) -> Case:
    """Reads ``NAME.json`` and the ``NAME.safetensors`` beside it, if any.

    Raises:
        CaseError: not a golden case, in one plain line.
    """
    fields = _read_json(path)
    weights = _typed(fields, "weights", dict, {})
    tensors_path = path.with_suffix(".safetensors")
    sections = _read_sections(tensors_path) if tensors_path.exists() else {name: {} for name in SECTIONS}
    grad_input, grad_state = _split_gradients(sections["grad"])
    case = Case(
        path=path,
        system=_required_name(fields, "system"),
        component=_required_name(fields, "component"),
        config=_typed(fields, "config", dict, {}),
        mode=_mode(fields),
        rtol=_tolerance(fields, "rtol", 1e-5),
        atol=_tolerance(fields, "atol", 1e-7),
        grad_of=_grad_of(fields),
        compare=_compare(fields),
        input_json=_typed(fields, "input_json", dict, {}),
        output_json=_typed(fields, "output_json", dict, {}),
        input_files=_input_files(fields),
        generated=bool(weights),
        state_dict=_state_dict(weights, sections["state_dict"]),
        input=sections["input"],
        output=sections["output"],
        probe=sections["probe"],
        grad_input=grad_input,
        grad_state=grad_state,
        state_after=sections["state_after"],
    )
    _check(case)
    return case


def find_input_files(case: Case, data: Path | None = None) -> dict[str, Path]:
    """The case's input files on this machine.

    Looked for under each ancestor folder of the case and its ``shared/``, then under `data` and the folder that the
    environment variable ``CORE_ATTENTION_SHARED`` names.

    Raises:
        MissingInput: one of them is nowhere.
    """
    folders = []
    for ancestor in case.path.resolve().parents:
        folders += [ancestor, ancestor / "shared"]
    if data is not None:
        folders.append(data)
    if os.environ.get(SHARED):
        folders.append(Path(os.environ[SHARED]))
    files: dict[str, Path] = {}
    for name, relative in case.input_files.items():
        place = next((folder / relative for folder in folders if (folder / relative).exists()), None)
        if place is None:
            raise MissingInput(relative)
        files[name] = place
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CaseError(f"is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CaseError(f"holds a {type(fields).__name__}, expected an object")
    return fields


def _read_sections(path: Path) -> dict[str, Tensors]:
    sections: dict[str, Tensors] = {name: {} for name in SECTIONS}
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CaseError(f"{path.name} cannot be read: {error}") from error
    for key, tensor in tensors.items():
        section, _, name = key.partition("/")
        if section not in sections or not name:
            raise CaseError(f"{path.name}: {key!r} is in none of the sections {', '.join(SECTIONS)}")
        sections[section][name] = tensor
    return sections


def _split_gradients(gradients: Tensors) -> tuple[Tensors, Tensors]:
    split: dict[str, Tensors] = {"input": {}, "state_dict": {}}
    for key, tensor in gradients.items():
        kind, _, name = key.partition("/")
        if kind not in split or not name:
            raise CaseError(f"grad/{key} is neither grad/input/NAME nor grad/state_dict/KEY")
        split[kind][name] = tensor
    return split["input"], split["state_dict"]


def _state_dict(weights: Mapping[str, Any], stored: Tensors) -> Tensors:
    """The generated state dict, if the case has a rule, under the stored tensors."""
    if not weights:
        return stored
    shapes, gain, scale = weights.get("shapes"), weights.get("gain", 1.0), weights.get("scale") or {}
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise CaseError("weights.shapes does not give every official key a shape")
    if not _is_number(gain) or not isinstance(scale, dict) or not all(_is_number(f) for f in scale.values()):
        raise CaseError("weights.gain and the factors of weights.scale are numbers")
    for key, tensor in stored.items():
        if key not in shapes:
            raise CaseError(f"state_dict/{key} is not in weights.shapes, which names every official key")
        if list(tensor.shape) != shapes[key]:
            raise CaseError(f"state_dict/{key} has shape {list(tensor.shape)}, weights.shapes says {shapes[key]}")
    try:
        factors = {pattern: float(factor) for pattern, factor in scale.items()}
        generated = generate(str(weights.get("rule")), shapes, gain=float(gain), scale=factors)
    except (ValueError, MemoryError, OverflowError) as error:
        raise CaseError(f"weights: {error}") from error
    return {key: torch.from_numpy(array) for key, array in generated.items()} | stored


def _compare(fields: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    try:
        return parse_rules(_typed(fields, "compare", dict, {}))
    except ValueError as error:
        raise CaseError(str(error)) from error


def _check(case: Case) -> None:
    """What only the whole case shows."""
    if not case.output and not case.output_json and not case.state_after:
        raise CaseError("records no output: there is nothing to compare")
    _no_twice("input", [*case.input, *case.input_json, *case.input_files])
    _no_twice("output", [*case.output, *case.output_json])
    _check_gradients(case)
    for key in case.state_after:
        if key not in case.state_dict:
            raise CaseError(f"state_after/{key}: the state dict has no such key")
    _check_where(case)


def _check_where(case: Case) -> None:
    for pattern, rule in case.compare.items():
        where = rule.get("where")
        if where is not None and where not in case.input and where not in case.output:
            raise CaseError(
                f"compare {pattern!r}: where names {where!r}, which is neither an input nor an output tensor"
            )
    for name, recorded in case.recorded.items():
        where = rule_for(name, case.compare, rtol=case.rtol, atol=case.atol).where
        if where is not None:
            try:
                spread(case.where(where), recorded)
            except ValueError as error:
                raise CaseError(f"{name}: {error}") from error


def _check_gradients(case: Case) -> None:
    for kind, gradients, tensors in (
        ("input", case.grad_input, case.input),
        ("state_dict", case.grad_state, case.state_dict),
    ):
        for name, gradient in gradients.items():
            if name not in tensors:
                raise CaseError(f"grad/{kind}/{name}: there is no {kind}/{name}")
            if not tensors[name].is_floating_point():
                raise CaseError(f"grad/{kind}/{name}: {kind}/{name} is {tensors[name].dtype}, which has no gradient")
            if gradient.shape != tensors[name].shape:
                raise CaseError(
                    f"grad/{kind}/{name} has shape {list(gradient.shape)}, {kind}/{name} {list(tensors[name].shape)}"
                )
    if (case.grad_input or case.grad_state) and not case.grad_of:
        raise CaseError("has gradients but no grad_of, the scalar that was differentiated")
    for name, weight in case.grad_of.items():
        if name not in case.output:
            raise CaseError(f"grad_of names {name!r}, which is not a recorded output tensor")
        if weight == "probe" and name not in case.probe:
            raise CaseError(f"grad_of {name!r} needs probe/{name}, which is absent")
    for name, probe in case.probe.items():
        if name not in case.output or probe.shape != case.output[name].shape:
            raise CaseError(f"probe/{name} has no output/{name} of its shape {list(probe.shape)}")


def _no_twice(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise CaseError(f"the {kind} {name!r} is recorded twice")


def _required_name(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise CaseError(f"has no {name!r}: not a golden case")
    return value


def _typed(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise CaseError(f"{name} is a {type(value).__name__}, expected an object")
    return value


def _mode(fields: Mapping[str, Any]) -> str:
    mode = "eval" if fields.get("mode") is None else fields["mode"]
    if mode not in ("eval", "train"):
        raise CaseError(f"mode is {mode!r}, expected 'eval' or 'train'")
    return mode


def _tolerance(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = default if fields.get(name) is None else fields[name]
    if not is_tolerance(value):
        raise CaseError(f"{name} is {value!r}, expected a number that is not negative")
    return float(value)


def _grad_of(fields: Mapping[str, Any]) -> dict[str, float | str]:
    objective = _typed(fields, "grad_of", dict, {})
    for name, weight in objective.items():
        if weight != "probe" and not _is_number(weight):
            raise CaseError(f"grad_of {name!r} is {weight!r}, expected 'probe' or a number")
    return {name: weight if weight == "probe" else float(weight) for name, weight in objective.items()}


def _input_files(fields: Mapping[str, Any]) -> dict[str, str]:
    files = _typed(fields, "input_files", dict, {})
    for name, path in files.items():
        if not isinstance(path, str) or not path:
            raise CaseError(f"input_files {name!r} is {path!r}, expected a path")
    return files


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
