"""The command ``core-attention``: list · show · verify · record · bench · why.

Imports of anything heavy stay inside the verbs, so that ``--help`` answers at once.
"""

import argparse
import difflib
import glob
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core_attention.golden.compare import Row
    from core_attention.golden.replay import Result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="core-attention",
        description="Published attention systems: what is here, what it costs, and whether it equals the original.",
        epilog="example: core-attention show rala --tokens 4096",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    listing = _verb(
        verbs,
        "list",
        _list,
        "all published systems, who holds them, and what verify showed here",
        "core-attention list",
    )
    listing.add_argument("--json", action="store_true", help="print everything as JSON")

    show = _verb(
        verbs,
        "show",
        _show,
        "a system, or what a mechanism costs at N tokens",
        "core-attention show rala --tokens 4096",
    )
    show.add_argument("name", help="the slug of a system, or the name of a mechanism")
    show.add_argument("--tokens", type=int, default=1024, help="how many tokens the layer is priced at (default: 1024)")
    show.add_argument("--json", action="store_true", help="print everything as JSON")

    verify = _verb(
        verbs,
        "verify",
        _verify,
        "replay golden cases against the published results",
        "core-attention verify packages/core_attention/tests/golden --json",
        description="Replays golden cases: builds each component, runs it on the recorded inputs and compares every "
        "output, gradient and updated state. Exit status: 1 if a case differs or raises, else 2 if one is unknown or "
        "unusable, else 0.",
    )
    verify.add_argument("cases", nargs="+", metavar="CASE", help="a case's JSON file, a folder of them, or a pattern")
    verify.add_argument("--data", type=Path, metavar="DIR", help="where input files of the cases are looked for")
    verify.add_argument("--device", default="cpu", help="where components run (default: cpu)")
    verify.add_argument("--no-skip", action="store_true", help="a missing input file is a failure")
    verify.add_argument("--json", action="store_true", help="print every comparison as JSON")
    verify.add_argument("-v", "--verbose", action="store_true", help="print the traceback of a component that raises")

    record = _verb(
        verbs,
        "record",
        _record,
        "write a golden case from a component, a configuration and inputs",
        "core-attention record rala GateLinearAttentionNoSilu case.json --config '{\"dim\": 16}' --input x=2,16,6,6",
        description="Runs a registered component in float64 and in float32, and writes NAME.json and NAME.safetensors with its weights, "
        "inputs, outputs, gradients and updated state. The tolerances are what the float32 run needs, with a margin.",
    )
    record.add_argument("system", help="the slug of a system")
    record.add_argument("component", help="the key of one of its components")
    record.add_argument("case", type=Path, metavar="CASE", help="the case's JSON file to write")
    record.add_argument("--config", default="{}", help="constructor arguments as JSON, or a file that holds them")
    record.add_argument("--inputs", type=Path, metavar="FILE", help="a .safetensors file of the inputs by name")
    record.add_argument(
        "--input", action="append", default=[], metavar="NAME=SHAPE", help="a random normal input, such as x=2,16,32"
    )
    record.add_argument(
        "--weights", type=Path, metavar="FILE", help="official weights (.safetensors); default: those of `build`"
    )
    record.add_argument("--mode", default="eval", choices=["eval", "train"], help="phase of the module (default: eval)")
    record.add_argument("--seed", type=int, default=0, help="of weights, random inputs and probes (default: 0)")
    record.add_argument("--overwrite", action="store_true", help="replace a case that exists")

    bench = _verb(
        verbs,
        "bench",
        _bench,
        "time a mechanism against its definition and softmax attention",
        "core-attention bench rala --tokens 1024 4096 --memory",
    )
    bench.add_argument("name", help="the name of a mechanism; core-attention list names them")
    bench.add_argument("--tokens", type=int, nargs="+", default=[1024], help="how many tokens (default: 1024)")
    bench.add_argument("--device", default="cpu", help="where it runs (default: cpu)")
    bench.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    bench.add_argument("--backward", action="store_true", help="time forward and backward")
    bench.add_argument("--rounds", type=int, default=7, help="paired rounds (default: 7)")
    bench.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    bench.add_argument("--memory", action="store_true", help="measure CPU memory too, each in a process of its own")
    bench.add_argument("--json", action="store_true", help="print the rows as JSON")
    bench.add_argument("-v", "--verbose", action="store_true", help="say which backend each attention() takes and why")

    why = _verb(
        verbs,
        "why",
        _why,
        "which backend attention() takes, and why each other is not",
        "core-attention why 1 8 4096 64 --mask 'causal & segments' --dtype bfloat16 --device cuda",
    )
    why.add_argument("shape", type=int, nargs=4, metavar="N", help="batch, heads, queries, width (of the queries)")
    why.add_argument("--keys", type=int, help="how many keys (default: as queries)")
    why.add_argument("--kv-heads", type=int, help="heads of keys and values (default: as queries)")
    why.add_argument("--value-width", type=int, help="width of a value (default: as a key's)")
    why.add_argument("--mask", default="none", help="kinds joined by &: causal, window, lengths, segments, blocks …")
    why.add_argument("--dtype", default="float32", help="of queries, keys and values (default: float32)")
    why.add_argument("--device", default="cpu", help="a device type (default: cpu)")
    why.add_argument("--backend", default="auto", help="ask for one backend (default: auto)")
    why.add_argument("--grad", action="store_true", help="a gradient is wanted")
    why.add_argument("--lse", action="store_true", help="the log-sum-exp is wanted")
    why.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser


def _verb(verbs: Any, name: str, run: Any, summary: str, example: str, **more: Any) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=summary,
        **{"description": summary[0].upper() + summary[1:] + ".", **more},
        epilog=f"example: {example}",
    )
    verb.set_defaults(run=run)
    return verb


def _list(args: argparse.Namespace) -> int:
    from core_attention.measuring.clock import table
    from core_attention.registry.catalogue import declared
    from core_attention.registry.listing import systems_table

    rows = systems_table()
    if args.json:
        mechanisms = {name: {"slug": e.slug, "page": e.page} for name, e in declared("examples").items()}
        print(json.dumps({"systems": rows, "mechanisms": mechanisms}, indent=1))
        return 0
    lines = []
    for row in rows:
        held = [part for part in row["components"].values() if part["distribution"]]
        passed = [part["verified"] for part in held if part["verified"] and part["verified"]["ok"]]
        failed = [
            key
            for key, part in row["components"].items()
            if part["distribution"] and part["verified"] and not part["verified"]["ok"]
        ]
        oldest = min((one["date"][:10] for one in passed), default="")
        state = f"{len(passed)} of {len(held)}, {oldest}" if passed else "no run here" if held else ""
        lines.append(
            {
                "system": row["slug"],
                "year": row.get("year", ""),
                "components": f"{len(held)} of {len(row['components'])}",
                "held by": ", ".join(row["distributions"]) or "not in this installation",
                "verified": state + (f"; failed: {', '.join(failed)}" if failed else ""),
            }
        )
    print(table(lines))
    for row in rows:
        for entry, why in row["failures"].items():
            print(f"{row['slug']}: {entry} could not be imported: {why}", file=sys.stderr)
    print(f"\nmechanisms (core-attention show NAME, bench NAME): {', '.join(declared('examples'))}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from core_attention.registry import catalogue, listing, systems

    if args.tokens <= 0:
        return _refuse(f"expected a positive number of tokens, got {args.tokens}")
    known = {*listing.undeclared_papers(), *systems.slugs()}
    if args.name in known:
        slug = args.name
        of_system = systems.system(slug)
        pages = {name: of_system.pages.get(name, of_system.page) for name in of_system.examples}
    else:
        entry = catalogue.find("examples", args.name)
        if entry is None:
            return _unknown("a system or mechanism", args.name, [*known, *catalogue.declared("examples")])
        slug = entry.slug
        pages = {args.name: entry.page}
    (system,) = listing.systems_table(slug)
    costs = {name: _cost(name, args.tokens) | {"slug": slug, "page": page} for name, page in pages.items()}
    if args.json:
        print(json.dumps({"system": system, "mechanisms": costs}, indent=1))
        return 0
    if "title" in system:
        print(f"{system['title']} ({system['year']})\n  {listing.paper_line(system)}")
    else:
        print(f"{slug}: its declaration names no paper")
    for key, part in system["components"].items():
        print(f"  {key}: {_component_line(part)}")
    for failed, why in system["failures"].items():
        print(f"  {failed} could not be imported: {why}")
    for name, cost in costs.items():
        page = f" (docs/mechanisms/{cost['page']})" if cost["page"] else ""
        print(f"{name}{page}\n  {cost['layer']}")
        print(f"  at {cost['tokens']:,} tokens: {cost['text']}")
    return 0


def _component_line(part: Mapping[str, Any]) -> str:
    if not part["distribution"]:
        return "not in this installation"
    shown = part["verified"]
    if not shown:
        return f"{part['distribution']}; no run of verify here"
    state = "verified" if shown["ok"] else f"FAILED {', '.join(shown['failed'])}"
    built = ", ".join(f"{key}={value}" for key, value in shown["config"].items())
    return (
        f"{part['distribution']}; {state} {shown['date'][:10]}, {shown['cases']} cases, torch {shown['versions'].get('torch')}\n"
        f"    recorded with {built or 'no options'}; {shown['parameters']:,} parameters"
    )


def _cost(name: str, tokens: int) -> dict[str, Any]:
    from core_attention.measuring import bench
    from core_attention.measuring.clock import size
    from core_attention.measuring.cost import profile

    made = bench.example(name, tokens)
    price = profile(made.module, *made.inputs)
    layer = " ".join(repr(made.module).split())
    cost: dict[str, Any] = {"layer": layer if len(layer) <= 100 else type(made.module).__name__, "tokens": made.tokens}
    cost |= vars(price) | {"memory": bench.memory(name, tokens)}
    text = f"{price.parameters:,} parameters, {price.macs / 1e9:.3g} G MACs, {size(cost['memory'])} beyond inputs and weights (forward, CPU)"
    return cost | {"text": text}


def _bench(args: argparse.Namespace) -> int:
    from core_attention.registry import catalogue

    if catalogue.find("examples", args.name) is None:
        return _unknown("a mechanism", args.name, list(catalogue.declared("examples")))
    if min(args.tokens) <= 0 or args.rounds <= 0 or args.threads <= 0:
        return _refuse("--tokens, --rounds and --threads are positive numbers")
    import torch

    from core_attention.measuring.bench import bench
    from core_attention.measuring.clock import table

    if refused := _no_device(args.device):
        return _refuse(refused)
    torch.set_num_threads(args.threads)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows = bench(
        args.name,
        args.tokens,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        backward=args.backward,
        rounds=args.rounds,
        with_memory=args.memory,
    )
    what = "forward and backward" if args.backward else "forward"
    print(
        json.dumps({"mechanism": args.name, "rows": rows}, indent=1)
        if args.json
        else f"{args.name}, {what}, {args.device}, {args.dtype}, {args.threads} threads, {args.rounds} paired rounds\n{table(rows)}"
    )
    return 0


def _why(args: argparse.Namespace) -> int:
    from core_attention.attention import explain_shapes

    batch, heads, queries, width = args.shape
    keys = [batch, args.kv_heads or heads, queries if args.keys is None else args.keys, width]
    try:
        told = explain_shapes(
            args.shape,
            keys,
            [*keys[:3], args.value_width or width],
            mask=args.mask,
            dtype=args.dtype,
            device=args.device,
            backend=args.backend,
            needs_grad=args.grad,
            return_lse=args.lse,
        )
    except (ValueError, RuntimeError) as error:
        return _refuse(str(error))
    answer = {"backend": told.backend, "reason": told.reason, "others": dict(told.others)}
    print(json.dumps(answer, indent=1) if args.json else told)
    return 0


def _record(args: argparse.Namespace) -> int:
    from core_attention.golden.record import RecordingError, record_files

    try:
        summary = record_files(
            args.system,
            args.component,
            args.case,
            config=args.config,
            inputs=args.inputs,
            shapes=args.input,
            weights=args.weights,
            mode=args.mode,
            seed=args.seed,
            overwrite=args.overwrite,
        )
    except RecordingError as error:
        return _refuse(str(error))
    print(summary)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from core_attention.golden.replay import verify
    from core_attention.registry.listing import record

    if refused := _no_device(args.device):
        return _refuse(refused)
    results = []
    for path in _case_paths(args.cases):
        result = verify(path, device=args.device, data=args.data)
        results.append(result)
        if not args.json:
            _print_result(result, verbose=args.verbose)
    counts = Counter(result.status for result in results)
    if args.json:
        print(json.dumps({"cases": [_as_json(result) for result in results], "counts": counts}, indent=1))
    elif len(results) > 1:
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=_order)))
    try:
        record(results, device=args.device)
    except OSError as error:
        print(f"the results are not recorded for `core-attention list`: {error}", file=sys.stderr)
    if counts["differs"] or (args.no_skip and counts["skipped"]):
        return 1
    return 2 if counts["unknown"] or counts["unusable"] else 0


def _order(item: tuple[str, int]) -> int:
    return ("ok", "differs", "skipped", "unknown", "unusable").index(item[0])


def _case_paths(arguments: Sequence[str]) -> Iterator[Path]:
    """The case files that the arguments name; what names nothing is passed on, and reported as unreadable."""
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from sorted(path.rglob("*.json")) or [path]
        elif path.exists() or not glob.has_magic(argument):
            yield path
        else:
            yield from sorted(Path(match) for match in glob.glob(argument, recursive=True)) or [path]


def _print_result(result: "Result", *, verbose: bool) -> None:
    title = f"{result.status:<9} {result.path.stem}"
    if result.component:
        title += f" · {result.system}/{result.component}"
    if result.message:
        title += f": {result.message}"
    elif result.nearest is not None:
        title += f" · {len(result.rows)} compared, nearest its limit {_describe(result.nearest)}"
    elif result.status == "ok":
        title += " · nothing compared: everything recorded is optional"
    print(title, flush=True)
    if result.status == "differs":
        for row in result.rows:
            if not row.ok:
                print(f"          {_describe(row)}: {row.problem}", flush=True)
    if verbose and result.trace:
        print(result.trace, file=sys.stderr)


def _describe(row: "Row") -> str:
    if math.isinf(row.error) and row.index is None:
        return row.name
    at = f" at {list(row.index)}" if row.index else ""
    return f"{row.name} (error {row.error:.3g}, limit {row.limit:.3g}{at})"


def _as_json(result: "Result") -> dict[str, Any]:
    return {**vars(result), "path": str(result.path), "rows": [_finite(vars(row)) for row in result.rows]}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: it is written as text."""
    return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}


def _no_device(name: str) -> str | None:
    """Why a device cannot be used, in one line."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return f"the device {name!r} cannot be used: {str(error).splitlines()[0]}"
    return None


def _unknown(what: str, name: str, known: Sequence[str]) -> int:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    return _refuse(f"{name!r} is not {what}{hint} Known: {', '.join(sorted(set(known)))}")


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
