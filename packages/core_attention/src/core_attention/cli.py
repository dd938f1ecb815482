"""The command ``core-attention``: which verbs there are; each stands in its own file of `core_attention.commands`.

Imports of anything heavy stay inside the verbs, so that ``--help`` answers at once.
"""

import os
import sys
from collections.abc import Sequence

from core_attention.commands import bench, docs, record, show, verify, why
from core_attention.commands import list as listing
from core_attention.commands.frame import Refusal, parser_of

VERBS = {"list": listing, "show": show, "verify": verify, "record": record, "bench": bench, "why": why, "docs": docs}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    try:
        options = vars(parser_of(VERBS).parse_args(argv))
        run = options.pop("run")
        return run(**options)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
