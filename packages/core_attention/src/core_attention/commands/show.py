"""A system, or what a mechanism costs at N tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from core_attention.commands import docs
from core_attention.commands.frame import count, refuse_unknown

EXAMPLE = "core-attention show rala --tokens 4096 --memory"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the slug of a system, or the name of a mechanism")
    parser.add_argument("--tokens", type=count, default=1024, help="number of tokens that are priced (default: 1024)")
    parser.add_argument(
        "--memory", action="store_true", help="measure CPU memory too, in a process of its own (some seconds)"
    )


def run(name: str, *, tokens: int, memory: bool, as_json: bool) -> int:
    from core_attention.commands.listing import systems_table
    from core_attention.registry import catalogue, systems

    known = set(systems.slugs())
    if name in known:
        slug = name
        of_system = systems.system(slug)
        pages = {example: of_system.pages.get(example, of_system.page) for example in of_system.examples}
    else:
        entry = catalogue.find("examples", name)
        if entry is None:
            refuse_unknown("a system or mechanism", name, [*known, *catalogue.declared("examples")])
        slug = entry.slug
        pages = {name: entry.page}
    (system,) = systems_table(slug)
    costs = {}
    for example, page in pages.items():
        costs[example] = _cost(example, tokens, with_memory=memory) | {"slug": slug, "page": page}
    if as_json:
        print(json.dumps({"system": system, "mechanisms": costs}, indent=1))
        return 0
    for line in _system_lines(system):
        print(line)
    for example, cost in costs.items():
        print(
            f"{example}{_where_to_read(example, cost['page'])}\n  {cost['layer']}\n  at {cost['tokens']:,} tokens: {cost['text']}"
        )
    return 0


def _where_to_read(name: str, page: str | None) -> str:
    """How to read a mechanism's page, where it has one."""
    if not page or docs.path_of(page) is None:
        return ""
    if ":" in page:
        return f" (core-attention docs {name})"
    return f" (core-attention docs mechanisms/{page.removesuffix('.md')})"


def _system_lines(system: Mapping[str, Any]) -> list[str]:
    from core_attention.commands.listing import failed_lines, paper_line

    if "title" in system:
        lines = [f"{system['title']} ({system['year']})", f"  {paper_line(system)}"]
    else:
        lines = [f"{system['slug']}: its declaration names no paper"]
    lines += [f"  {key}: {_component_line(part)}" for key, part in system["components"].items()]
    lines += [f"  {line}" for line in failed_lines(system)]
    lines += [f"  {entry} could not be imported: {why}" for entry, why in system["failures"].items()]
    return lines


def _component_line(part: Mapping[str, Any]) -> str:
    if not part["distribution"]:
        return "not in this installation"
    shown = part["verified"]
    if not shown:
        return f"{part['distribution']}; no run of verify here"
    state = "verified"
    if not shown["ok"]:
        state = f"FAILED {', '.join(case['case'] for case in shown['failed'])}"
    built = ", ".join(f"{key}={value}" for key, value in shown["config"].items())
    return (
        f"{part['distribution']}; {state} {shown['date'][:10]}, {shown['cases']} cases, torch {shown['versions'].get('torch')}\n"
        f"    recorded with {built or 'no options'}; {shown['parameters']:,} parameters"
    )


def _cost(name: str, tokens: int, *, with_memory: bool) -> dict[str, Any]:
    """Parameters, multiply-accumulates and, if asked for, memory (bytes) of an example, and the same as text."""
    from core_attention.measuring import bench
    from core_attention.measuring.clock import size
    from core_attention.measuring.cost import profile

    example = bench.example(name, tokens)
    price = profile(example.module, *example.inputs)
    layer = " ".join(repr(example.module).split())
    if len(layer) > 100:
        layer = type(example.module).__name__
    text = f"{price.parameters:,} parameters, {price.macs / 1e9:.3g} G MACs"
    facts = {"layer": layer, "tokens": example.tokens, **vars(price)}
    if with_memory:
        facts["memory"] = bench.memory(name, tokens)
        text += f", {size(facts['memory'])} beyond inputs and weights (forward, CPU)"
    return facts | {"text": text}
