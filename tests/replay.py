"""A golden case made ready to run in other ways than `verify` runs it: what the conformance tests of components share."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.golden.replay import Case, find_component, find_input_files, read_case
from core_attention.systems import Component

ROOT = Path(__file__).parents[1]
FILL = 1e8  # values of this size fill masks


@dataclass(frozen=True)
class Ready:
    """A component built with the weights of one of its cases, and the inputs of that case."""

    case: Case
    component: Component
    module: nn.Module | None
    inputs: dict[str, Any]

    def run(self, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call under seed 0, on fresh copies of the inputs."""
        given = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in (inputs or self.inputs).items()
        }
        torch.manual_seed(0)
        return self.component.run(self.module, given, config=self.case.config, mode=self.case.mode)

    def float32(self) -> "Ready":
        """The same in float32."""
        module = self.module.float() if self.module is not None else None
        inputs = {name: _float(value) for name, value in self.inputs.items()}
        return replace(self, module=module, inputs=inputs)


def committed_cases() -> list[Path]:
    """The golden cases that the packages carry, and those of a package elsewhere: the folder named by GOLDEN_CASES, by slug."""
    cases = sorted(ROOT.glob("packages/*/tests/golden/*/*.json"))
    if os.environ.get("GOLDEN_CASES"):
        cases += sorted(Path(os.environ["GOLDEN_CASES"]).glob("*/*.json"))
    return cases


def shared_cases(slug: str) -> list[Path]:
    """All recorded cases of a system, where ``papers/SLUG/golden`` is at hand: beside an ancestor folder, or where the
    environment variable CORE_ATTENTION_SHARED says."""
    folders = [folder / "shared" for folder in ROOT.parents]
    if os.environ.get("CORE_ATTENTION_SHARED"):
        folders.append(Path(os.environ["CORE_ATTENTION_SHARED"]))
    found = (sorted((folder / "papers" / slug / "golden").glob("*.json")) for folder in folders)
    return next((cases for cases in found if cases), [])


def ready(path: Path) -> Ready:
    """Builds the component of a case.

    Raises:
        MissingInput: an input file of the case is not on this machine.
    """
    case = read_case(path)
    files = find_input_files(case)
    component = find_component(case.system, case.component)
    torch.manual_seed(0)
    module = None
    if component.build is not None:
        module = component.load(case.config, case.state_dict).train(case.mode == "train")
    return Ready(case, component, module, case.input | case.input_json | files)


def floats(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The float tensors among the outputs."""
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.is_floating_point()}


def objective(outputs: Mapping[str, Any]) -> Tensor:
    """A scalar on which every float output that has a gradient has a say: a sum with fixed random weights."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for value in floats(outputs).values():
        if value.requires_grad:
            weight = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
            counts = value.detach().isfinite() & (value.detach().abs() < FILL)
            total = total + (torch.where(counts, value, 0.0).double() * weight).sum()
    return total


@contextmanager
def same_everywhere() -> Iterator[None]:
    """Deterministic algorithms, as `verify` uses them."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
