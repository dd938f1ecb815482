"""What every test process needs before it imports anything large."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of pytest-xdist share the cores

# The tests start many Python processes. Where bytecode is not to be written beside the sources, as in many containers, each of them would
# compile torch's sources again, which takes longer than importing them. They share compiled sources in a folder of the tests instead.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    bytecode = Path(__file__).parent / ".pytest_cache" / "bytecode"
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(bytecode)
    sys.dont_write_bytecode = False

# What the tests of several packages share stands in tests/ (mutating.py, grammar.py).
sys.path.insert(0, str(Path(__file__).parent / "tests"))
pytest.register_assert_rewrite("mutating")
