"""What gui_grounding costs and learns here, beside the published ways.

    python benchmarks/gui_grounding.py                         everything
    python benchmarks/gui_grounding.py --only labels           rows whose names begin so
    python benchmarks/gui_grounding.py --only real --data DIR  a small model on real pages (DIR holds miniwob/ and chromium_ui/)

Rows are functions in `gui_grounding_*.py` beside this file, in a mapping ROWS: name → (function(arguments) → rows, what is required).
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE.resolve()] + [
    str(HERE)
]  # this file is not the package `gui_grounding`

from measure import parser, show  # noqa: E402


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--only", default="", help="rows whose names begin so")
    made.add_argument("--list", action="store_true", help="only name the rows")
    made.add_argument("--data", type=Path, default=None, help="folder with miniwob/ and chromium_ui/, for the row real")
    args = made.parse_args()
    for file in sorted(HERE.glob("gui_grounding_*.py")):
        for name, (measure, required) in import_module(file.stem).ROWS.items():
            if args.list:
                print(name)
            elif name.startswith(args.only):
                show(f"{name}: {required}", measure(args), args.json)


if __name__ == "__main__":
    main()
