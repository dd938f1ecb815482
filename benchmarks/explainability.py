"""What explainability costs here, beside plain definitions.

python benchmarks/explainability.py                   all rows
python benchmarks/explainability.py --only promptcam  rows whose names begin so
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE.resolve()]  # this file is not `explainability`

import numpy as np  # noqa: E402
import torch  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts  # noqa: E402
from explainability.attribution.attentions import RawAttention  # noqa: E402
from explainability.attribution.gradients import GradCAM, IntegratedGradients  # noqa: E402
from explainability.attribution.metrics import insertion  # noqa: E402
from explainability.chm_corr.decision import Support  # noqa: E402
from explainability.chm_corr.definition import match_pair  # noqa: E402
from explainability.chm_corr.learner import CHMLearner  # noqa: E402
from explainability.promptcam.blurring import blurred_logits, rank_heads  # noqa: E402
from explainability.promptcam.model import PromptCAM  # noqa: E402
from explainability.saliency_verbalization.search import (  # noqa: E402
    SearchOptions,
    convolution_filters,
    search,
    span_filters,
)
from explainability.sat_wsol.model import SAT  # noqa: E402
from explainability.tcpa.model import TCPA  # noqa: E402
from explainability.vit_analytics.importance import gated_logits, head_importance  # noqa: E402

sys.path.append(str(HERE))
from measure import paired, parser, ratio, show  # noqa: E402


def vit(width: int = 384, heads: int = 6, classes: int = 0) -> VisionTransformer:
    return VisionTransformer(embed_dim=width, num_heads=heads, num_classes=classes).eval()


def promptcam():
    """Prompt-CAM of ViT-S with 200 prompts against its definition."""
    model, image = PromptCAM(vit(), 200).eval(), torch.randn(1, 3, 224, 224)
    model.keep_prompts()
    return {"definition": lambda: model.definition(image), "ours": lambda: model(image)}, "≥ 1.8 × its definition"


def ranking():
    """Ranking 12 heads against the 78 forward passes of the greedy search."""
    model, image = PromptCAM(vit(192, 12), 20).eval(), torch.randn(1, 3, 224, 224)

    def brute_force() -> list[int]:
        order: list[int] = []
        left = list(range(12))
        while left:
            trials = [blurred_logits(model, image, [*order, head], 3).softmax(1)[0, 3].item() for head in left]
            order.append(left.pop(max(range(len(left)), key=trials.__getitem__)))
        return order

    assert brute_force() == rank_heads(model, image, 3).order
    return {"78 forward passes": brute_force, "ours": lambda: rank_heads(model, image, 3)}, "≥ 20 ×, the same order"


def tcpa():
    """TCPA on ViT-S against the plain ViT."""
    prompts = TokenCoordinatedPrompts(12, 384)
    plain, model, image = vit(), TCPA(vit(), 200, prompts).eval(), torch.randn(2, 3, 224, 224)
    return {"plain ViT": lambda: plain(image), "ours": lambda: model(image)}, "≤ 1.25 × the plain ViT"


def sat():
    """SAT on DeiT-S against the plain DeiT."""
    plain, model, image = vit(), SAT(vit(), 200).eval(), torch.randn(2, 3, 224, 224)
    return {"plain DeiT": lambda: plain(image), "ours": lambda: model(image)}, "≤ 1.1 × the plain DeiT"


def importance():
    """Exact importance of all heads of a ViT-Ti against one pruned forward pass per head."""
    model, image = vit(192, 3, 10), torch.randn(1, 3, 224, 224)

    def naive() -> None:
        for layer in range(12):
            for head in range(3):
                gates = torch.ones(12, 3)
                gates[layer, head] = 0
                gated_logits(model, image, gates)

    return {"naive pruning": naive, "ours": lambda: head_importance(model, image)}, "≥ 1.8 ×"


def edit():
    """An edit of CHM-Corr++: 50 supports, a new mask."""
    support = Support(torch.rand(50, 7, 7), torch.ones(50, 7, 7), [i % 9 for i in range(50)])
    mask = (torch.rand(7, 7) > 0.5).float()
    return {"edit": lambda: support.predict(mask)}, "≤ 50 ms"


def chm():
    """Four pairs of 1,024 channels through the CHM learner, one query, against its definition pair by pair."""
    model, source, target = CHMLearner(1024).eval(), torch.randn(1, 1024, 15, 15), torch.randn(4, 1024, 15, 15)

    def definition() -> None:
        for pair in target:
            match_pair(model, source, pair[None])

    def ours() -> None:
        of_query, of_support = model.at_scales(source), model.at_scales(target)
        model.match([scale.expand(4, -1, -1, -1) for scale in of_query], of_support, 15)

    kept = model.at_scales(target)

    def from_index() -> None:
        of_query = model.at_scales(source)
        model.match([scale.expand(4, -1, -1, -1) for scale in of_query], kept, 15)

    return {"its definition": definition, "ours": ours, "ours, support images indexed": from_index}, "≥ 4 ×"


def words():
    """Searching 400 tokens, window 5, against the definition in plain loops: the same hits, values and coverages (checked first)."""
    rng = np.random.default_rng(0)
    attributions = rng.normal(size=400)
    options = SearchOptions()
    plain = attributions.tolist()

    def share(indices: tuple[int, ...]) -> float:
        positive = sum(value for value in plain if value > 0)
        return max(0.0, sum(plain[index] for index in indices) / positive)

    def search_loops(filters: list[list[int]]) -> list[tuple[tuple[int, ...], float, float]]:
        greatest = abs(max(plain))
        values = [value / greatest for value in plain]
        ranked = sorted(values, reverse=True)
        count = max(int(options.value * len(values)), 1)
        threshold = sum(ranked[:count]) / count
        found: dict[tuple[int, ...], float] = {}
        for place in range(len(values) - options.filter_length + 1):
            for chosen in filters:
                indices = tuple(place + offset for offset, one in enumerate(chosen) if one)
                if any(values[index] < 0 for index in indices):
                    continue
                value = sum(values[index] for index in indices) / len(indices)
                if value > threshold and indices not in found:
                    found[indices] = value
        hits = [(indices, value, share(indices)) for indices, value in found.items()]
        return sorted(hits, key=lambda hit: (-hit[2], hit[0]))

    kinds = [make(options.filter_length).tolist() for make in (convolution_filters, span_filters)]

    def loops() -> list[list[tuple[tuple[int, ...], float, float]]]:
        return [search_loops(filters) for filters in kinds]

    ours = search(attributions, options)
    for plain_hits, hits in zip(loops(), (ours.convolution, ours.span), strict=True):
        assert [hit[0] for hit in plain_hits] == [hit.indices for hit in hits]
        np.testing.assert_allclose([hit[1:] for hit in plain_hits], [(hit.value, hit.coverage) for hit in hits])
    return {"the definition in plain loops": loops, "ours": lambda: search(attributions, options)}, "≥ 50 ×"


def leaks():
    """RSS and hooks over 500 explanations (Grad-CAM, gradients, raw attention)."""
    import gc
    import resource

    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, num_heads=2, depth=2, num_classes=5).eval()
    image = torch.randn(1, 3, 32, 32)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())

    def explain(times: int) -> None:
        for _ in range(times):
            GradCAM(model).attribute(image, 1)
            IntegratedGradients(model, 2).attribute(image, 1)
            RawAttention(model).attribute(image, 1)

    before_hooks = hooks()
    explain(30)  # caches of the libraries fill
    gc.collect()
    before = _resident()
    explain(500)
    gc.collect()
    grown = (_resident() - before) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"leaks: 500 × 3 explanations: RSS grew by {grown:.1f} MB (wanted: within 20), peak {peak:.0f} MB, hooks {before_hooks} → {hooks()}"
    )
    return {}, "within 20 MB"


def _resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def curve():
    """An insertion curve of 50 steps against the bare forward passes."""
    model, image = vit(192, 3, 10), torch.randn(1, 3, 224, 224)
    maps, target = torch.rand(1, 224, 224), torch.tensor([0])

    def bare() -> None:
        for size in (32, 19):
            model(image.expand(size, -1, -1, -1))

    return {"51 forward passes": bare, "ours": lambda: insertion(model, image, maps, target)}, "≤ 1.1 ×"


ROWS = {f.__name__: f for f in (promptcam, tcpa, sat, importance, edit, chm, curve, ranking, words, leaks)}


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--only", default="", help="rows whose names begin so")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    for name, row in ROWS.items():
        if not name.startswith(args.only):
            continue
        torch.manual_seed(0)
        contestants, required = row()
        with torch.no_grad():
            if not contestants:
                continue
            # processor time: other processes of a shared machine do not count
            times = paired(contestants, rounds=args.rounds, clock=time.process_time)
        base = next(iter(times.values()))
        rows = []
        for contestant, measured in times.items():
            rows.append({"": contestant, "ms": f"{1000 * measured.median:.1f}", "of the first": ratio(measured, base)})
        show(f"{name}: {row.__doc__} Wanted: {required}", rows, args.json)


if __name__ == "__main__":
    main()
