"""Kernels run in processes of their own: the tests' shape checks wrap functions, kernels too, which Triton cannot read."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import importlib.util, json, os, sys
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

spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
"""


@pytest.fixture(scope="module")
def script(request):
    """``script(work, **environment)``: what `work` prints as JSON, with the test's own module at hand as `cases`."""

    def run(work: str, **env: str):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | env
        command = [sys.executable, "-c", SCRIPT + work, str(request.path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run
