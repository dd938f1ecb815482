"""Write a golden case from a component, a configuration and inputs.

Runs a registered component in float64 and in float32, and writes NAME.json and NAME.safetensors with its weights, inputs, outputs,
gradients and updated state. The tolerances are what the float32 run needs, with a margin.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from core_attention.commands.frame import Refusal

EXAMPLE = "core-attention record rala GateLinearAttentionNoSilu case.json --config '{\"dim\": 16}' --input x=2,16,6,6"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", help="the slug of a system")
    parser.add_argument("component", help="the key of one of its components")
    parser.add_argument("case", type=Path, metavar="CASE", help="the case's JSON file to write")
    parser.add_argument("--config", default="{}", help="constructor arguments as JSON, or a file that holds them")
    parser.add_argument("--inputs", type=Path, metavar="FILE", help="a .safetensors file of the inputs by name")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=SHAPE", help="a random normal input, such as x=2,16,32"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="official weights (.safetensors); default: those of `build`"
    )
    parser.add_argument("--mode", default="eval", choices=["eval", "train"], help="phase of the module (default: eval)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, random inputs and probes (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a case that exists")


def run(
    system: str,
    component: str,
    case: Path,
    *,
    config: str,
    inputs: Path | None,
    input: Sequence[str],
    weights: Path | None,
    mode: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> int:
    from core_attention.golden.record import RecordingError, record_files

    try:
        fields = record_files(
            system,
            component,
            case,
            config=config,
            inputs=inputs,
            shapes=input,
            weights=weights,
            mode=mode,
            seed=seed,
            overwrite=overwrite,
        )
    except RecordingError as error:
        raise Refusal(str(error)) from error
    if as_json:
        print(json.dumps({"case": str(case), "rtol": fields["rtol"], "atol": fields["atol"]}, indent=1))
    else:
        print(f"{case}: rtol {fields['rtol']:.2g}, atol {fields['atol']:.2g}")
    return 0
