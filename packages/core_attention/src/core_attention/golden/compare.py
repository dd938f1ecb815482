"""How a value that we computed is compared with a recorded one: one `Row` a tensor or JSON value.

Floats are held to ``|a-b| <= atol + rtol*|b|`` and to a bound on the norm of the difference, integers and masks are
equal. The rules are those of a golden case's field ``compare``; see ``docs/golden-cases.md``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

MASK_FILL = 1e8  # values of this size and more fill masked scores: they say nothing about the norm
TRUE_ZERO = 1e-6  # a gradient this much smaller (rms) than the case's largest is a true zero with rounding noise

_RULE_KEYS = {"rtol", "atol", "where", "mismatch", "rows", "optional"}


def rms(tensor: Tensor) -> float:
    """Root mean square of the finite elements; 0 where there are none."""
    finite = tensor[tensor.isfinite()].double()
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


@dataclass(frozen=True)
class Rule:
    """The tolerances that hold for one recorded value."""

    rtol: float
    atol: float
    where: str | None = None
    mismatch: float = 0.0
    rows: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Row:
    """The comparison of one recorded value.

    Attributes:
        name: ``output/…``, ``grad/…`` or ``state_after/…``.
        ok: whether it holds.
        error: the worst error (floats: absolute; integers and masks: share of elements that differ).
        limit: what was allowed there.
        ratio: ``error / limit``, the worse of the element and the norm rule; above 1 fails.
        index: where the worst element is.
        problem: what is wrong, in words; None when it holds.
    """

    name: str
    ok: bool
    error: float = 0.0
    limit: float = 0.0
    ratio: float = 0.0
    index: tuple[int, ...] | None = None
    problem: str | None = None


def failed(name: str, problem: str) -> Row:
    """A row that fails for a reason other than its values."""
    return Row(name, ok=False, error=math.inf, ratio=math.inf, problem=problem)


def parse_rules(compare: Any) -> dict[str, dict[str, Any]]:
    """The field ``compare``, checked; its tolerances as floats.

    Raises:
        ValueError: an unknown rule, or a value of the wrong kind.
    """
    if not isinstance(compare, dict):
        raise ValueError(f"compare is {type(compare).__name__}, expected an object")
    for pattern, rule in compare.items():
        if not isinstance(rule, dict) or not set(rule) <= _RULE_KEYS:
            raise ValueError(f"compare {pattern!r}: unknown rule {rule!r}; known: {', '.join(sorted(_RULE_KEYS))}")
        for key in ("rtol", "atol", "mismatch"):
            if key in rule and not is_tolerance(rule[key]):
                raise ValueError(f"compare {pattern!r}: {key} is {rule[key]!r}, expected a number that is not negative")
        if rule.get("rows", "set") != "set":
            raise ValueError(f"compare {pattern!r}: rows is {rule['rows']!r}; only 'set' is known")
        if not isinstance(rule.get("optional", False), bool) or not isinstance(rule.get("where", ""), str):
            raise ValueError(f"compare {pattern!r}: optional is true or false, where is a name; got {rule!r}")
    rules = {}
    for pattern, rule in compare.items():
        tolerances = {key: float(rule[key]) for key in ("rtol", "atol", "mismatch") if key in rule}
        rules[pattern] = dict(rule) | tolerances
    return rules


def is_tolerance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def rule_for(name: str, compare: Mapping[str, Mapping[str, Any]], *, rtol: float, atol: float) -> Rule:
    """The rule of the first pattern that matches `name`, over the case's own tolerances."""
    own = next((rule for pattern, rule in compare.items() if fnmatchcase(name, pattern)), {})
    rows = own.get("rows") == "set"
    return Rule(**{"rtol": rtol, "atol": atol, **own, "rows": rows})


def compare_tensors(
    name: str,
    ours: Tensor,
    recorded: Tensor,
    rule: Rule,
    *,
    where: Tensor | None = None,
    norm_rule: bool = True,
) -> Row:
    """Compares one tensor.

    Args:
        name: the row's name.
        ours: what we computed, on any device.
        recorded: what the case holds.
        rule: the tolerances.
        where: compare only where this is non-zero; aligned with the leading axes, broadcast over trailing ones.
        norm_rule: False for the gradients that are true zeros.

    Raises:
        ValueError: `where` does not lead the recorded shape.
    """
    ours, recorded = ours.detach().cpu(), recorded.detach().cpu()
    if ours.is_complex() != recorded.is_complex():
        return failed(name, f"is {_kind(ours)}, recorded {_kind(recorded)}")
    if ours.is_complex():
        ours, recorded = torch.view_as_real(ours.resolve_conj()), torch.view_as_real(recorded.resolve_conj())
    ours, recorded = (t.double() if t.is_floating_point() else t for t in (ours, recorded))
    if rule.rows:
        return _compare_rows(name, ours, recorded, rule)
    if ours.shape != recorded.shape:
        if ours.numel() != 1 or recorded.numel() != 1:
            return failed(name, f"has shape {list(ours.shape)}, recorded {list(recorded.shape)}")
        ours = ours.reshape(recorded.shape)
    compared = torch.ones(recorded.shape, dtype=torch.bool) if where is None else spread(where, recorded)
    if not compared.any():
        return Row(name, ok=True)
    # a recorded gradient is never a mask: one of zeros is a true zero with its own rounding noise
    masked = is_mask(recorded) and not name.startswith("grad/")
    if not recorded.is_floating_point() or masked:
        return _compare_exact(name, ours, recorded, compared, rule)
    return _compare_floats(name, ours.double(), recorded, compared, rule, norm_rule=norm_rule)


def is_mask(tensor: Tensor) -> bool:
    """Whether a float tensor counts as booleans: more than four elements, only zeros and ones."""
    return tensor.is_floating_point() and tensor.numel() > 4 and bool(((tensor == 0) | (tensor == 1)).all())


def _compare_floats(name: str, ours: Tensor, recorded: Tensor, chosen: Tensor, rule: Rule, *, norm_rule: bool) -> Row:
    limit = rule.atol + rule.rtol * recorded.abs()
    error = (ours - recorded).abs()
    same_special = (ours == recorded) | (ours.isnan() & recorded.isnan())
    comparable = ours.isfinite() & recorded.isfinite()
    error = torch.where(same_special, 0.0, torch.where(comparable, error, math.inf))
    # x/0 is inf for a difference where none is allowed; nothing over nothing is nothing, and inf over the inf limit
    # of an inf stays inf
    ratio = torch.where(error == 0, 0.0, torch.where(comparable, error / limit, math.inf))
    ratio = torch.where(chosen, ratio, -1.0)
    worst = int(ratio.argmax())
    worst_ratio, problem = float(ratio.flatten()[worst]), None
    index = _index(worst, recorded)
    value, expected = float(ours.flatten()[worst]), float(recorded.flatten()[worst])
    row = Row(
        name,
        ok=worst_ratio <= 1,
        error=float(error.flatten()[worst]),
        limit=float(limit.flatten()[worst]),
        ratio=worst_ratio,
        index=index,
    )
    if not row.ok:
        problem = f"is {value:.9g}, recorded {expected:.9g}"
    elif norm_rule:
        counts = chosen & comparable & (recorded.abs() < MASK_FILL)
        distance = float((ours - recorded)[counts].norm())
        allowed = max(0.02, 20 * rule.rtol) * float(recorded[counts].norm())
        norm_ratio = _ratio(distance, allowed)
        if norm_ratio > max(1.0, worst_ratio):
            problem = f"the norm of the difference is {distance:.3g}, allowed {allowed:.3g}"
            return Row(name, ok=False, error=distance, limit=allowed, ratio=norm_ratio, index=index, problem=problem)
        if norm_ratio > worst_ratio:
            return Row(name, ok=True, error=distance, limit=allowed, ratio=norm_ratio, index=index)
    return Row(**{**row.__dict__, "problem": problem})


def _compare_exact(name: str, ours: Tensor, recorded: Tensor, chosen: Tensor, rule: Rule) -> Row:
    if ours.is_floating_point() or recorded.is_floating_point():
        different = (ours.double() != recorded.double()) & chosen
    else:  # in 64-bit integers, where float64 would merge neighbours beyond 2^53
        different = (ours.long() != recorded.long()) & chosen
    share = int(different.sum()) / int(chosen.sum())
    first = int(different.flatten().int().argmax())
    row = _share_row(name, share, rule.mismatch, _index(first, recorded) if share else None)
    if row.ok:
        return row
    value, expected = ours.flatten()[first].item(), recorded.flatten()[first].item()
    problem = (
        f"{int(different.sum())} of {int(chosen.sum())} elements differ; the first is {value}, recorded {expected}"
    )
    return Row(**{**row.__dict__, "problem": problem})


def _compare_rows(name: str, ours: Tensor, recorded: Tensor, rule: Rule) -> Row:
    """Rows as a set: the share of rows that only one side has, of the recorded number."""
    if ours.ndim != recorded.ndim or ours.ndim == 0 or ours.shape[1:] != recorded.shape[1:]:
        return failed(name, f"has shape {list(ours.shape)}, recorded {list(recorded.shape)} (any number of rows)")
    expected, have = _row_set(recorded), _row_set(ours)
    alone = len(expected ^ have)
    if alone == 0:
        share = 0.0
    elif expected:
        share = alone / len(expected)
    else:
        share = math.inf
    row = _share_row(name, share, rule.mismatch, None)
    if row.ok:
        return row
    problem = (
        f"{len(expected - have)} of {len(expected)} recorded rows are missing, {len(have - expected)} are not recorded"
    )
    return Row(**{**row.__dict__, "problem": problem})


def compare_json(name: str, ours: Any, recorded: Any, rule: Rule) -> Row:
    """Compares one JSON value and names the path of the first difference."""
    try:
        ours = json.loads(json.dumps(ours, default=_plain))
    except (TypeError, ValueError) as error:
        return failed(name, f"is not a JSON value: {error}")
    difference = _first_difference("$", ours, recorded, rule)
    return failed(name, difference) if difference else Row(name, ok=True)


def _first_difference(path: str, ours: Any, recorded: Any, rule: Rule) -> str | None:
    if type(ours) is not type(recorded):
        kinds = type(ours).__name__, type(recorded).__name__
        return f"{path}: is {_short(ours)} ({kinds[0]}), recorded {_short(recorded)} ({kinds[1]})"
    if isinstance(recorded, dict):
        if ours.keys() != recorded.keys():
            missing, extra = sorted(recorded.keys() - ours.keys()), sorted(ours.keys() - recorded.keys())
            return f"{path}: keys missing {missing}, not recorded {extra}"
        pairs = [(f"{path}.{key}", ours[key], recorded[key]) for key in recorded]
    elif isinstance(recorded, list):
        if len(ours) != len(recorded):
            return f"{path}: has length {len(ours)}, recorded {len(recorded)}"
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(ours, recorded, strict=True))]
    elif isinstance(recorded, float):
        same = ours == recorded or (math.isnan(ours) and math.isnan(recorded))
        finite = math.isfinite(ours) and math.isfinite(recorded)
        near = same or (finite and abs(ours - recorded) <= rule.atol + rule.rtol * abs(recorded))
        return None if near else f"{path}: is {ours!r}, recorded {recorded!r}"
    else:
        return None if ours == recorded else f"{path}: is {_short(ours)}, recorded {_short(recorded)}"
    return next((difference for pair in pairs if (difference := _first_difference(*pair, rule))), None)


def spread(where: Tensor, recorded: Tensor) -> Tensor:
    """`where` as a mask of the recorded shape: aligned with its leading axes, broadcast over the rest. A single value, such as
    a loss beside outputs of the same pattern, is compared whole.

    Raises:
        ValueError: it does not lead that shape.
    """
    if recorded.numel() == 1 and where.numel() != 1:
        return torch.ones(recorded.shape, dtype=torch.bool)
    mask = where.detach().cpu() != 0
    if mask.ndim <= recorded.ndim:
        aligned = mask.reshape(*mask.shape, *(1,) * (recorded.ndim - mask.ndim))
        if all(a in (1, b) for a, b in zip(aligned.shape, recorded.shape, strict=True)):
            return aligned.expand(recorded.shape)
    raise ValueError(f"where has shape {list(where.shape)}, which does not lead {list(recorded.shape)}")


def _share_row(name: str, share: float, allowed: float, index: tuple[int, ...] | None) -> Row:
    return Row(name, ok=share <= allowed, error=share, limit=allowed, ratio=_ratio(share, allowed), index=index)


def _ratio(error: float, allowed: float) -> float:
    """The share of its limit that an error takes up; nothing is no share of a limit of 0, anything else exceeds it."""
    if error == 0:
        return 0.0
    return error / allowed if allowed else math.inf


def _row_set(tensor: Tensor) -> set[tuple[float | int, ...]]:
    rows = tensor.flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    return {tuple(row) for row in rows.tolist()}


def _index(flat: int, tensor: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), tensor.shape)) if tensor.ndim else ()


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> Any:
    """What a component may return beside JSON's own types: numpy scalars, paths."""
    if hasattr(value, "item") and not isinstance(value, Tensor):
        return value.item()
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__}")
