"""A tiny published system for the tests of `verify`, and a recorder of its golden cases.

The "published code" is plain tensor arithmetic on official keys (a joined ``qkv``, tied ``embed``/``head``, batch
normalisation); "ours" is a module with other names, so that a case exercises splitting, tying, updated state and
gradients of official keys.
"""

import json
import os
import subprocess
import sys
import types
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from core_attention.golden.case import SHARED, read_case
from core_attention.registry import systems
from core_attention.systems import Component, System

WIDTH = 6


class Toy(nn.Module):
    """``head(bn(softmax(q kᵀ) v))`` with ``head`` tied to ``embed``; returns a mask, indices and a loss too."""

    def __init__(self, width: int, heads: int = 1):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norm = nn.BatchNorm1d(width)
        self.embed = nn.Parameter(torch.empty(width, width))
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        x = x @ self.embed
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * self.scale
        y = self.norm((scores.softmax(-1) @ self.value(x)).transpose(1, 2)).transpose(1, 2)
        return y @ self.embed.T, scores


def build(config):
    return Toy(config["width"])


def convert(official, config):
    ours = {
        f"{name}.weight": part
        for name, part in zip(("query", "key", "value"), official.pop("qkv").chunk(3), strict=True)
    }
    ours["embed"] = official.pop("embed")
    official.pop("head", None)
    ours["scale"] = official.pop("scale")
    return ours | {key: official.pop(key) for key in list(official) if key.startswith("norm.")}


def run(module, inputs, *, config, mode):
    return outputs_of(*module(inputs["x"]), inputs)


def outputs_of(y, scores, inputs):
    return {
        "y": y,
        "mask": (scores > 0).float(),
        "best": scores.argmax(-1),
        "loss": y.square().mean(),
        "names": {"label": inputs.get("label", "none"), "values": [1, 0.5, None, float("nan")]},
        "not_recorded": torch.zeros(1),
    }


def published(state, inputs, mode):
    """The published forward on official keys; updates the running statistics of `state` in train mode."""
    x = inputs["x"] @ state["embed"]
    q, k, v = (x @ w.T for w in state["qkv"].chunk(3))
    scores = q @ k.transpose(-2, -1) * state["scale"]
    mean, var = state["norm.running_mean"].detach().clone(), state["norm.running_var"].detach().clone()
    y = F.batch_norm(
        (scores.softmax(-1) @ v).transpose(1, 2), mean, var, state["norm.weight"], state["norm.bias"], mode == "train"
    ).transpose(1, 2)
    after = {"norm.running_mean": mean, "norm.running_var": var} if mode == "train" else {}
    if mode == "train":
        after["norm.num_batches_tracked"] = state["norm.num_batches_tracked"] + 1
    return outputs_of(y @ state["head"].T, scores, inputs), after


def function_run(module, inputs, *, config, mode):
    assert module is None
    return {"sum": inputs["x"].sum(), "rows": inputs["x"].flip(0)}


system = System(
    "toy",
    {
        "Toy": Component(run=run, build=build, convert=convert, ignore=("*.masked_bias",), batch={"x": 0, "y": 0}),
        "total": Component(run=function_run),
    },
)


def register(monkeypatch, **parts: System | Exception):
    """Registers systems under their slugs for one test; an exception stands for a module that cannot be imported."""
    found = []
    for number, (slug, part) in enumerate(parts.items()):
        name = f"toy_entry_{number}"
        module = types.ModuleType(name)
        if isinstance(part, Exception):

            def fail(attribute, error=part):
                raise error

            module.__getattr__ = fail
        else:
            module.system = part
        monkeypatch.setitem(sys.modules, name, module)
        found.append(EntryPoint(slug.rstrip("_"), f"{name}:system", systems.GROUP))
    monkeypatch.setattr(systems, "own_entries", list)
    monkeypatch.setattr(systems, "entry_points", lambda group: [e for e in found if e.group == group])


def record(folder: Path, name: str = "case", *, mode: str = "train", dtype=torch.float32):
    """Writes a good case and returns its fields and tensors, for a test to spoil and write again."""
    g = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    state = {
        "qkv": random(3 * WIDTH, WIDTH),
        "embed": random(WIDTH, WIDTH),
        "scale": torch.tensor(0.5, dtype=dtype),
        "norm.weight": 1 + 0.1 * random(WIDTH),
        "norm.bias": random(WIDTH),
        "norm.running_mean": random(WIDTH),
        "norm.running_var": 1 + 0.1 * random(WIDTH).abs(),
        "norm.num_batches_tracked": torch.tensor(4),
    }
    state["head"] = state["embed"]
    inputs = {"x": random(2, 5, WIDTH), "y_probe": random(2, 5, WIDTH)}
    probe = inputs.pop("y_probe")
    leaves = {key: t.clone().requires_grad_(key in ("qkv", "embed", "norm.weight")) for key, t in state.items()}
    leaves["head"] = leaves["embed"]
    x = inputs["x"].clone().requires_grad_()
    outputs, after = published(leaves, {"x": x, "label": "cat"}, mode)
    graded = {
        "state_dict/qkv": leaves["qkv"],
        "state_dict/embed": leaves["embed"],
        "state_dict/norm.weight": leaves["norm.weight"],
    }
    graded["input/x"] = x
    objective = (outputs["y"] * probe).sum() + 0.25 * outputs["loss"]
    gradients = dict(zip(graded, torch.autograd.grad(objective, list(graded.values())), strict=True))
    gradients["state_dict/head"] = gradients["state_dict/embed"]  # tied: the total
    fields = {
        "system": "toy",
        "component": "Toy",
        "official": None,
        "config": {"width": WIDTH, "dropout": 0.0},
        "mode": mode,
        "rtol": 1e-5,
        "atol": 1e-6,
        "grad_of": {"y": "probe", "loss": 0.25},
        "input_json": {"label": "cat"},
        "output_json": {"names": outputs["names"]},
        "notes": "",
    }
    tensors = {f"state_dict/{key}": t for key, t in state.items()}
    tensors |= {f"input/{key}": t for key, t in inputs.items()}
    tensors |= {f"output/{key}": outputs[key].detach() for key in ("y", "mask", "best", "loss")}
    tensors |= {f"grad/{key}": t for key, t in gradients.items()}
    tensors |= {f"state_after/{key}": t for key, t in after.items()}
    tensors["probe/y"] = probe
    return write(folder, name, fields, tensors), fields, tensors


def write(folder: Path, name: str, fields, tensors) -> Path:
    path = folder / f"{name}.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    if tensors:
        save_file({key: t.contiguous().clone() for key, t in tensors.items()}, path.with_suffix(".safetensors"))
    return path


@pytest.fixture
def toy(monkeypatch):
    """The toy system, registered for one test, with what records and spoils its cases."""
    register(monkeypatch, toy=system)
    return types.SimpleNamespace(
        system=system,
        component=system.components["Toy"],
        convert=convert,
        run=run,
        build=build,
        Module=Toy,
        register=partial(register, monkeypatch),
        record=record,
        write=write,
    )


@pytest.fixture
def unchecked():
    """Switches the signatures' own shape checks off: for the errors that users see, and for torch.compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def recorded():
    """``recorded("dma", "doge_lm")``: a golden case of the folder shared beside the checkout; skips where there is none."""

    def find(slug: str, name: str):
        roots = [Path(os.environ[SHARED])] if SHARED in os.environ else []
        roots += [folder / "shared" for folder in Path(__file__).parents]
        for root in roots:
            path = root / "papers" / slug / "golden" / f"{name}.json"
            if path.exists():
                return read_case(path)
        pytest.skip(f"needs shared/papers/{slug}/golden/{name}.json; name the folder in {SHARED}")

    return find


# The tests' shape checks wrap functions, which torch.compile cannot trace and Triton cannot read. What is compiled, or runs in Triton's
# interpreter, therefore runs in a process without them; a session starts at most one of each and sends it code, a line of JSON at a time.
SERVER = """
import contextlib, io, json, os, sys, traceback, types
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    import numpy as np
    from triton.runtime import interpreter

    # triton 3.6 turns one-element arrays into loop bounds in a way that numpy 2.4 refuses, and multiplies bfloat16 as integers
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot
    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
    interpreter._patch_lang_tensor = patched
    def widened(handle):
        if handle.dtype.scalar.name != "bf16":
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)
    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)

torch.set_num_threads(1)
for number, line in enumerate(sys.stdin):
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    torch.manual_seed(0)
    printed, problem = io.StringIO(), None
    snippet = types.ModuleType(f"snippet_{number}")
    sys.modules[snippet.__name__] = snippet  # Dynamo looks its globals up by the module's name, and remembers them
    with contextlib.redirect_stdout(printed):
        try:
            exec(json.loads(line), vars(snippet))
        except BaseException:
            problem = traceback.format_exc()
    print(json.dumps([printed.getvalue(), problem]), flush=True)
"""
CASES = """
import importlib.util, json
spec = importlib.util.spec_from_file_location("cases", {path!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
"""


@contextmanager
def server(**environment: str):
    """``ask(code)``: what `code` printed in a process that lives on; its traceback fails the test."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | environment
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(code: str) -> str:
            print(json.dumps(code), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, f"the process ended with {process.wait()}"
            printed, problem = json.loads(answer)
            assert problem is None, problem[-2000:]
            return printed

        yield ask
        process.kill()  # nothing is left to do there, and torch takes seconds to end by itself


@pytest.fixture(scope="session")
def unhooked():
    """``unhooked(code)``: what `code` prints in a process without the tests' shape checks."""
    with server() as ask:
        yield ask


@pytest.fixture(scope="session")
def interpreter():
    """The same in Triton's interpreter."""
    with server(TRITON_INTERPRET="1") as ask:
        yield ask


@pytest.fixture(scope="module")
def script(request, unhooked):
    """``script(work)``: what `work` prints as JSON, in a process without shape checks, with the test's own module at hand as `cases`."""
    return lambda work: json.loads(unhooked(CASES.format(path=str(request.path)) + work))


@pytest.fixture(scope="module")
def interpreted_script(request, interpreter):
    """The same in Triton's interpreter."""
    return lambda work: json.loads(interpreter(CASES.format(path=str(request.path)) + work))
