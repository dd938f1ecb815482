"""Feature-map attention against its plain definition, forward and forward with backward, in one run.

Every row times our layer and the definition that stands beside it in turn; a ratio above 1 says how
many times faster the layer is. The balanced multi-task attention runs at the four stages of its network (EuroSAT, 64×64 pixels), at
the batch of the published timing (8) and of the published training (64), also against the published way of averaging
(`nn.AdaptiveAvgPool2d` instead of a mean).

Example: python benchmarks/feature_maps.py --threads 2
         python benchmarks/feature_maps.py --only balanced --profile
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measure import paired, parser, show
from torch import Tensor, nn

from core_attention.measuring.clock import Times
from core_attention.mechanisms.csa_action import class_semantics
from core_attention.mechanisms.ela import attention as ela
from core_attention.mechanisms.ela.attention import ELA
from core_attention.mechanisms.eurosat_bmta import balanced, cbam, coordinate
from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM
from core_attention.mechanisms.eurosat_bmta.coordinate import CoordinateAttention
from core_attention.mechanisms.featenhancer import scale_aware
from core_attention.mechanisms.msdual import dual
from core_attention.mechanisms.msdual.dual import CAM, PAM
from core_attention.mechanisms.ulsam import attention as ulsam
from core_attention.mechanisms.ulsam.attention import ULSAM


@dataclass
class Case:
    """A layer at work, and what it is compared with."""

    name: str
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    peers: dict[str, Callable[..., Tensor]]


def published_balanced(layer: BalancedMultiTaskAttention, x: Tensor) -> Tensor:
    """The three steps with the means as published, by adaptive pooling."""
    rows = nn.functional.adaptive_avg_pool2d(x, (None, 1))
    columns = nn.functional.adaptive_avg_pool2d(x, (1, None))
    a_h, a_w = layer.coord_attention.gates(rows[..., 0], columns[:, :, 0])
    e = layer.se_attention.gate(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
    alpha = layer.balance
    return alpha * (x * a_h[..., None] * a_w[:, :, None]) + (1 - alpha) * (x * e[..., None, None])


def cases() -> Iterator[Case]:
    """The layers at sizes of their papers' networks."""
    for batch in (8, 64):
        for channels, side in ((64, 64), (128, 32), (256, 16), (512, 8)):
            layer = BalancedMultiTaskAttention(channels)
            x = torch.randn(batch, channels, side, side)
            peers = {"plain": balanced.definition, "published": published_balanced}
            yield Case("balanced", layer, (x,), {k: partial(f, layer) for k, f in peers.items()})
    resnet = ((8, 256, 56), (8, 512, 28), (8, 2048, 7))
    for batch, channels, side in resnet:
        for layer, module in (
            (ELA(channels), ela),
            (ELA(channels, variant="L"), ela),
            (CoordinateAttention(channels), coordinate),
            (CBAM(channels), cbam),
        ):
            name = type(layer).__name__ + ("-L" if isinstance(layer, ELA) and layer.groups < channels else "")
            yield Case(
                name, layer, (torch.randn(batch, channels, side, side),), {"plain": partial(module.definition, layer)}
            )
    for channels, side in ((512, 14), (96, 14), (320, 7)):
        layer = ULSAM(channels)
        yield Case("ULSAM", layer, (torch.randn(8, channels, side, side),), {"plain": partial(ulsam.definition, layer)})
    for side in (32, 64):
        for kind in (PAM, CAM):
            layer = kind(64)
            nn.init.constant_(layer.gamma, 0.5)
            x = 0.3 * torch.randn(2, 64, side, side)
            yield Case(kind.__name__, layer, (x,), {"plain": partial(dual.definition, layer)})
    csa = class_semantics.CSABlock(400, 256)
    inputs = torch.randn(16, 400, 100), torch.randn(16, 256, 100)
    yield Case("CSABlock", csa, inputs, {"plain": partial(class_semantics.definition, csa)})
    safa = scale_aware.ScaleAwareFeatureAggregation()
    inputs = torch.randn(2, 24, 263, 263), torch.randn(2, 24, 65, 65)
    yield Case("SAFA", safa, inputs, {"plain": partial(scale_aware.definition, safa)})


def forward(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        run(*inputs)


def both(run: Callable[..., Tensor], inputs: tuple[Tensor, ...], parameters: list[Tensor], probe: Tensor) -> None:
    torch.autograd.grad(run(*inputs), [*inputs, *parameters], probe)


def times_faster(ours: Times, peer: Times) -> str:
    middle, low, high = peer.over(ours)
    return f"{middle:.2f}× ({low:.2f}–{high:.2f})"


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """One row: milliseconds of ours, and how many times faster it is than each peer, forward and with backward."""
    runs = {"ours": case.layer, **case.peers}
    row: dict[str, Any] = {
        "layer": case.name,
        "map": "×".join(map(str, case.inputs[-1 if case.name == "CSABlock" else 0].shape)),
    }
    case.layer.eval()
    with torch.no_grad():
        want = case.layer(*case.inputs)
        for peer in case.peers.values():
            torch.testing.assert_close(peer(*case.inputs), want, rtol=1e-3, atol=1e-4)
    times = paired({name: partial(forward, run, case.inputs) for name, run in runs.items()}, rounds=rounds, warm=2)
    row["forward ms"] = f"{1000 * times['ours'].median:.2f}"
    row |= {f"× {peer}": times_faster(times["ours"], times[peer]) for peer in case.peers}
    case.layer.train()
    inputs = tuple(t.requires_grad_() for t in case.inputs)
    extra = list(case.layer.parameters()), torch.randn_like(want)
    times = paired({name: partial(both, run, inputs, *extra) for name, run in runs.items()}, rounds=rounds, warm=2)
    row["with backward ms"] = f"{1000 * times['ours'].median:.2f}"
    row |= {f"× {peer}, backward": times_faster(times["ours"], times[peer]) for peer in case.peers}
    return row


def profiled(case: Case) -> str:
    """Where the time of ours and of the definition goes, forward."""
    out = []
    for name, run in {"ours": case.layer.eval(), **case.peers}.items():
        forward(run, case.inputs)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(10):
                forward(run, case.inputs)
        table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=8, max_name_column_width=40)
        out.append(f"{case.name} {tuple(case.inputs[0].shape)}, {name}\n{table}")
    return "\n".join(out)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", default="", help="only the layers whose name starts with this")
    options.add_argument("--profile", action="store_true", help="print where the time goes instead")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    chosen = [case for case in cases() if case.name.lower().startswith(given.only.lower())]
    if given.profile:
        print("\n".join(map(profiled, chosen)))
        return
    for title in ("balanced multi-task attention", "the other layers"):
        rows = [measured(c, given.rounds) for c in chosen if (c.name == "balanced") == title.startswith("balanced")]
        if rows:
            show(f"{title}, {given.threads} thread(s)", rows, given.json)


if __name__ == "__main__":
    main()
