"""Every mechanism of the registry under everything that torch asks of a module: a cell passes, or its `System` says why not (`limits`).

A declared reason whose cell passes fails here, like a strict xfail. What is compiled or exported takes seconds a cell and is `slow`.
"""

import json
import subprocess
import sys
from pathlib import Path

import conforming
import pytest

from core_attention import systems
from core_attention.registry.catalogue import declared
from core_attention.systems import System

EXAMPLES = declared("examples")
CELLS = [
    pytest.param(name, check, id=f"{name}-{check}", marks=[pytest.mark.slow] if check in conforming.SLOW else [])
    for name in EXAMPLES
    for check in conforming.CHECKS
]


@pytest.fixture(scope="session")
def conforms():
    """Asks a process without the import hook of the shape checks whether a mechanism passes a check."""
    script = Path(conforming.__file__)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(name: str, check: str) -> str | None:
            print(name, check, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, f"the process ended with {process.wait()}"
            return json.loads(answer)

        yield ask


@pytest.mark.parametrize(("name", "check"), CELLS)
def test_cell(name, check, conforms):
    reason = conforming.limit(name, check)
    found = conforms(name, check)
    if reason is None:
        assert found is None, found
    else:
        assert found is not None, f"passes, and is declared as a limit: {reason}"


@pytest.mark.parametrize("slug", systems.slugs())
def test_limits_name_examples_and_checks_and_say_why(slug):
    system = systems.system(slug)
    assert set(system.limits) <= set(system.examples)
    for reasons in system.limits.values():
        assert set(reasons) <= set(conforming.CHECKS)
        assert all(len(reason.split()) > 3 for reason in reasons.values())


def test_a_declared_limit_that_holds_no_longer_is_found(monkeypatch):
    """The matrix's own sabotage: a wrong answer, a wrong gradient, and a reason for a cell that passes are all seen."""
    expected = {"output 0": conforming.torch.ones(3)}
    conforming.same(expected, expected)
    with pytest.raises(conforming.Failure, match="differs by"):
        conforming.same({"output 0": conforming.torch.tensor([1.0, 1.0, 1.01])}, expected)
    with pytest.raises(conforming.Failure, match="on one side only"):
        conforming.same({**expected, "gradient of w": conforming.torch.ones(1)}, expected)
    monkeypatch.setattr(
        conforming, "system_of", lambda name: System("ela", limits={"ela": {"eager": "a made-up reason"}})
    )
    with pytest.raises(AssertionError, match="passes, and is declared as a limit: a made-up reason"):
        test_cell("ela", "eager", lambda name, check: None)


def test_the_page_is_what_is_declared():
    """``uv run python tests/conforming.py --write`` writes it again."""
    assert conforming.table() in conforming.PAGE.read_text()
