"""What ACMIL costs beside its definition, with the same weights in the same run: time on 10,000 tiles, memory on long bags.

    python benchmarks/pathology.py                 # a few minutes; needs about 8 GB for the memory part
    python benchmarks/pathology.py --part time

The definitions below are written as the papers' equations read: for the gated form V and U apart and everything kept, for the multi-head
form keys and values projected for every branch.
"""

import sys
from pathlib import Path

import measure
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, ACMILConfig


class DefinitionGA(nn.Module):
    """ACMIL-GA with the weights of ours: every intermediate of length N stays."""

    def __init__(self, ours: ACMIL_GA) -> None:
        super().__init__()
        self.ours = ours
        self.v, self.u = (nn.Parameter(w.detach().clone()) for w in ours.gate_weight.chunk(2))
        self.v_bias, self.u_bias = (nn.Parameter(b.detach().clone()) for b in ours.gate_bias.chunk(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = self.ours
        h = torch.relu(F.linear(x.float(), m.project))
        gated = torch.tanh(F.linear(h, self.v, self.v_bias)) * torch.sigmoid(F.linear(h, self.u, self.u_bias))
        scores = F.linear(gated, m.score_weight, m.score_bias).T
        attention = scores.softmax(1)
        z = attention @ h
        branches = torch.stack([F.linear(z[i], m.branch_weight[i], m.branch_bias[i]) for i in range(len(z))])
        slide = attention.mean(0, keepdim=True) @ h
        return F.linear(slide, m.slide_weight, m.slide_bias), branches, scores[None]


class DefinitionMHA(nn.Module):
    """ACMIL-MHA with the weights of ours: K and V of length N for every branch, and V for the slide.

    `attend` is the part that the branches differ in: from h [N, L] to their vectors, the slide's vector and the scores.
    """

    def __init__(self, ours: ACMIL_MHA) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = self.ours
        branches, slide, scores = self.attend(torch.relu(F.linear(x.float(), m.project)))
        return (
            F.linear(slide, m.slide_weight, m.slide_bias),
            torch.einsum("ml,mcl->mc", branches, m.branch_weight) + m.branch_bias,
            scores,
        )

    def attend(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, width = self.ours, h.shape[1]
        heads, c = m.config.heads, width // m.config.heads
        scores, branches = [], []
        for b in range(m.config.branches):
            q = F.linear(m.query[b : b + 1], m.query_weight[b], m.query_bias[b]).view(1, heads, c).transpose(0, 1)
            k = F.linear(h, m.key_weight[b], m.key_bias[b]).view(-1, heads, c).transpose(0, 1)
            v = F.linear(h, m.value_weight[b], m.value_bias[b]).view(-1, heads, c).transpose(0, 1)
            scores.append(q @ k.transpose(1, 2) / c**0.5)
            z = (scores[-1].softmax(-1) @ v).transpose(0, 1).reshape(1, width)
            z = F.linear(z, m.out_weight[b], m.out_bias[b])
            branches.append(F.layer_norm(z, (width,), m.norm_weight[b], m.norm_bias[b], 1e-6))
        stacked = torch.cat(scores, 1)
        v = F.linear(h, m.slide_value_weight, m.slide_value_bias).view(-1, heads, c).transpose(0, 1)
        z = (stacked.softmax(-1).mean(1, keepdim=True) @ v).transpose(0, 1).reshape(1, width)
        z = F.linear(z, m.slide_out_weight, m.slide_out_bias)
        return torch.cat(branches), F.layer_norm(z, (width,), m.slide_norm_weight, m.slide_norm_bias, 1e-6), stacked


def pair(form: type, width: int = 1024) -> tuple[nn.Module, nn.Module]:
    """Ours and the definition with the same weights, in evaluation mode."""
    torch.manual_seed(0)
    ours = form(ACMILConfig(n_features=width, n_class=2)).eval()
    if form is ACMIL_MHA:
        nn.init.normal_(ours.query)  # the published start (1e-6) is uniform attention
    return ours, (DefinitionMHA if form is ACMIL_MHA else DefinitionGA)(ours).eval()


def step(model: nn.Module, x: Tensor) -> None:
    """Forward and backward of a training step."""
    slide, branches, scores, *_ = model(x)
    (slide.logsumexp(-1).sum() + branches.logsumexp(-1).sum() + scores.softmax(-1).square().sum()).backward()
    model.zero_grad(set_to_none=True)


def infer(model: nn.Module, x: Tensor) -> None:
    """A prediction."""
    with torch.inference_mode():
        model(x)


def layer_width(width: int) -> tuple[ACMIL_MHA, DefinitionMHA]:
    """The attention layers alone, `width` wide and without the input projection that both share."""
    torch.manual_seed(0)
    ours = ACMIL_MHA(ACMILConfig(n_features=width, n_class=2, width=width)).eval()
    nn.init.normal_(ours.query)
    ours.project = None  # pyright: ignore[reportAttributeAccessIssue]
    return ours, DefinitionMHA(ours)


def times(tiles: int, rounds: int) -> list[dict[str, str]]:
    x = torch.randn(tiles, 1024)
    rows = []

    def compare(what: str, ours, theirs) -> None:
        found = measure.paired({"ours": ours, "definition": theirs}, rounds=rounds)
        rows.append(
            {
                "what": what,
                "ours, ms": f"{found['ours'].median * 1e3:.0f}",
                "definition, ms": f"{found['definition'].median * 1e3:.0f}",
                "definition / ours": measure.ratio(found["definition"], found["ours"]),
            }
        )

    for form in (ACMIL_GA, ACMIL_MHA):
        ours, definition = pair(form)
        with torch.inference_mode():
            for a, b in zip(ours(x), definition(x), strict=False):
                torch.testing.assert_close(a.squeeze(0) if a.ndim > b.ndim else a, b, rtol=1e-3, atol=1e-4)
        name = f"{form.__name__} whole model, {tiles:,} × 1024 → L = 512"
        compare(f"{name}: inference", lambda m=ours: infer(m, x), lambda m=definition: infer(m, x))
        compare(f"{name}: training step", lambda m=ours: step(m, x), lambda m=definition: step(m, x))
    ours, definition = layer_width(1024)

    def attend() -> None:
        with torch.inference_mode():
            definition.attend(x)

    compare(f"ACMIL_MHA attention layers, {tiles:,} × 1024: inference", lambda: infer(ours, x), attend)
    return rows


def memory() -> list[dict[str, str]]:
    here = str(Path(__file__).parent)
    setup = (
        f"import sys; sys.path.insert(0, {here!r}); import torch, pathology as b\n"
        "from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA\n"
        "ours, definition = b.pair({form}); model = {who}; b.{how}(model, torch.randn(64, 1024))\n"
        "x = torch.empty({n}, 1024, dtype=torch.{dtype})\n"
        "block = torch.randn(8192, 1024)\n"
        "for part in x.split(8192): part.copy_(block[: len(part)])\n"
    )
    rows = []

    def peak(form: str, who: str, how: str, n: int, dtype: str) -> int:
        return measure.peak_memory(setup.format(form=form, who=who, how=how, n=n, dtype=dtype), f"b.{how}(model, x)")

    for how in ("infer", "step"):
        ours, theirs = (peak("ACMIL_GA", who, how, 500_000, "float32") for who in ("ours", "definition"))
        rows.append(
            {
                "what": f"ACMIL_GA, 500,000 × 1024 float32, {'inference' if how == 'infer' else 'training step'}",
                "ours": measure.size(ours),
                "definition": measure.size(theirs),
                "ours / definition": f"{ours / theirs:.2f}×",
            }
        )
    for form in ("ACMIL_GA", "ACMIL_MHA"):
        for how in ("infer", "step"):
            ours = peak(form, "ours", how, 1_000_000, "float16")
            kind = "inference" if how == "infer" else "training step"
            rows.append({"what": f"{form}, 1,000,000 × 1024 float16, {kind}", "ours": measure.size(ours)})
    return rows


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--part", choices=["time", "memory", "all"], default="all")
    parser.add_argument("--tiles", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part in ("time", "all"):
        measure.show(
            "Time (definition / ours above 1: ours is faster)", times(options.tiles, options.rounds), options.json
        )
    if options.part in ("memory", "all"):
        measure.show("Peak memory beyond features and weights", memory(), options.json)


if __name__ == "__main__":
    sys.exit(main())
