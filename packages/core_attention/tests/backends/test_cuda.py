"""`attention` on a CUDA device: what `auto` takes, and SDPA, equal the definition for every mask."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# The tests' shape checks wrap functions, kernels too, which Triton and FlexAttention cannot read: a process of its own.
SCRIPT = """
import importlib.util, json, sys
import torch
from core_attention.attention import attention

spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
worst = {}
for dtype in (torch.float32, torch.bfloat16):
    for name, mask in cases.masks().items():
        found = {}
        for backend in ("reference", "sdpa", "auto"):
            q, k, v = (t.detach().cuda().requires_grad_() for t in cases.qkv(dtype=dtype, width=16, value_width=16))
            out = attention(q, k, v, mask=mask, backend=backend)
            weighted = (out.float() * torch.linspace(-1, 1, out.numel(), device="cuda").view_as(out)).sum()
            found[backend] = [out, *torch.autograd.grad(weighted, (q, k, v))]
        for backend in ("sdpa", "auto"):
            errors = [(a.float() - b.float()).abs().div(1 + b.float().abs()).max().item() for a, b in zip(found[backend], found["reference"])]
            worst[f"{name}, {dtype}, {backend}"] = max(errors) / (8e-2 if dtype == torch.bfloat16 else 5e-3)
print(json.dumps(worst))
"""


@pytest.mark.gpu
def test_equals_the_definition():
    cases = Path(__file__).parents[1] / "test_attention.py"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(cases)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {name: by for name, by in json.loads(done.stdout).items() if not by <= 1} == {}


GRAPH = """
import torch
from core_attention.attention import attention
from core_attention.masks import Causal, Window

for mask in (None, Causal(), Window(16, 0)):
    q, k, v = (torch.randn(1, 4, 128, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # kernels are chosen and compiled before a capture
        for _ in range(3):
            attention(q, k, v, mask=mask)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # raises where the host waits for a value
        out = attention(q, k, v, mask=mask)
    for _ in range(2):
        for tensor in (q, k, v):
            tensor.normal_()
        graph.replay()
        torch.testing.assert_close(out, attention(q, k, v, mask=mask))
print("replayed")
"""


@pytest.mark.gpu
def test_a_cuda_graph_captures_and_replays():
    done = subprocess.run([sys.executable, "-c", GRAPH], capture_output=True, text=True, check=False)
    assert done.stdout == "replayed\n", done.stderr[-2000:]
