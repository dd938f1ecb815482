import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # grammar.py

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of pytest-xdist share the cores
