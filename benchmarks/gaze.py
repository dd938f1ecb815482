"""What gaze costs here, beside its peers.

    python benchmarks/gaze.py                    everything
    python benchmarks/gaze.py --only reading     rows whose names begin so

Rows are functions in `gaze_*.py` beside this file, in a mapping ROWS: name → (function(threads, rounds) → rows, what is required).
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE.resolve()] + [
    str(HERE)
]  # this file is not `gaze`

from measure import parser, show  # noqa: E402


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--only", default="", help="rows whose names begin so")
    made.add_argument("--list", action="store_true", help="only name the rows")
    args = made.parse_args()
    for file in sorted(HERE.glob("gaze_*.py")):
        for name, (measure, required) in import_module(file.stem).ROWS.items():
            if args.list:
                print(name)
            elif name.startswith(args.only):
                show(f"{name}: {required}", measure(args.threads, args.rounds), args.json)


if __name__ == "__main__":
    main()
