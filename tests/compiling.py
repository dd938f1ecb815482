"""Compiles components and compares them with themselves, in a process without the runtime checks of shapes.

The tests check every jaxtyping signature through an import hook, and Dynamo cannot trace through those checks. So `test_components` keeps one
process of this script and sends it the path of one case a line; the answer is a line of JSON. ``python tests/compiling.py`` may be used by hand.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import replay
import torch


def compare(path: Path) -> str | None:
    """What is wrong with the compiled component of a case, forward and gradients; None if it equals the eager one."""
    ready = replay.ready(path)
    eager = _results(ready, ready.component.run)
    ready = replay.ready(path)  # a training run has updated the state
    compiled = _results(ready, torch.compile(ready.component.run, backend="aot_eager"))
    for name, expected in eager.items():
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        if not torch.allclose(compiled[name], expected, rtol=1e-4, atol=1e-5 * max(1.0, scale), equal_nan=True):
            return f"{name} differs by {float((compiled[name] - expected).abs().max()):.3g} where compiled"
    return None


def _results(ready: replay.Ready, run: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    given = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in ready.inputs.items()}
    outputs = run(ready.module, given, config=ready.case.config, mode=ready.case.mode)
    results = {f"output {name}": value.detach() for name, value in replay.floats(outputs).items()}
    total = replay.objective(outputs)
    if ready.module is not None and total.requires_grad:
        total.backward()
        results |= {f"gradient of {n}": p.grad for n, p in ready.module.named_parameters() if p.grad is not None}
    return results


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        torch.compiler.reset()
        try:
            problem = compare(Path(line.strip()))
        except Exception:
            problem = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
        print(json.dumps(problem), flush=True)


if __name__ == "__main__":
    main()
