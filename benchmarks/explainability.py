"""What explainability costs here, beside plain definitions.

python benchmarks/explainability.py                   all rows
python benchmarks/explainability.py --only promptcam  rows whose names begin so
"""

from __future__ import annotations

import contextlib
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
from explainability.attribution.attribution import Attribution  # noqa: E402
from explainability.attribution.gradients import GradCAM, IntegratedGradients  # noqa: E402
from explainability.attribution.metrics import deletion, insertion  # noqa: E402
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
    """Searching 20 texts of 400 tokens, window 5, against the definition in plain loops: the same hits, values and coverages.

    The loops are written as the definition is (every filter weighs every window), and once more leanly, over the chosen tokens alone.
    """
    texts = np.random.default_rng(0).normal(size=(20, 400))
    options = SearchOptions()

    def share(plain: list[float], indices: tuple[int, ...]) -> float:
        positive = sum(value for value in plain if value > 0)
        return max(0.0, sum(plain[index] for index in indices) / positive)

    def by_definition(values: list[float], place: int, chosen: list[int]) -> tuple[tuple[int, ...], float, bool]:
        weighed = [one * values[place + offset] for offset, one in enumerate(chosen)]
        indices = tuple(place + offset for offset, one in enumerate(chosen) if one)
        return indices, sum(weighed) / sum(chosen), all(value >= 0 for value in weighed)

    def leanly(values: list[float], place: int, chosen: list[int]) -> tuple[tuple[int, ...], float, bool]:
        indices = tuple(place + offset for offset, one in enumerate(chosen) if one)
        if any(values[index] < 0 for index in indices):
            return indices, 0.0, False
        return indices, sum(values[index] for index in indices) / len(indices), True

    def search_loops(plain: list[float], filters: list[list[int]], weigh) -> list[tuple[tuple[int, ...], float, float]]:
        greatest = abs(max(plain))
        values = [value / greatest for value in plain]
        ranked = sorted(values, reverse=True)
        count = max(int(options.value * len(values)), 1)
        threshold = sum(ranked[:count]) / count
        found: dict[tuple[int, ...], float] = {}
        for place in range(len(values) - options.filter_length + 1):
            for chosen in filters:
                indices, value, positive = weigh(values, place, chosen)
                if positive and value > threshold and indices not in found:
                    found[indices] = value
        hits = [(indices, value, share(plain, indices)) for indices, value in found.items()]
        return sorted(hits, key=lambda hit: (-hit[2], hit[0]))

    kinds = [make(options.filter_length).tolist() for make in (convolution_filters, span_filters)]

    def loops(weigh) -> list[list[list[tuple[tuple[int, ...], float, float]]]]:
        return [[search_loops(text.tolist(), filters, weigh) for filters in kinds] for text in texts]

    for weigh in (by_definition, leanly):
        for text, of_text in zip(texts, loops(weigh), strict=True):
            ours = search(text, options)
            for plain_hits, hits in zip(of_text, (ours.convolution, ours.span), strict=True):
                assert [hit[0] for hit in plain_hits] == [hit.indices for hit in hits]
                np.testing.assert_allclose([hit[1:] for hit in plain_hits], [(h.value, h.coverage) for h in hits])
    contestants = {
        "the definition in plain loops": lambda: loops(by_definition),
        "lean loops": lambda: loops(leanly),
        "ours": lambda: [search(text, options) for text in texts],
    }
    return contestants, "≥ 50 ×"


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


class GivenMaps:
    """What torch-cam's metrics ask of an extractor, for maps that are given."""

    def __init__(self, model: torch.nn.Module, maps: torch.Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *args, **options) -> list[torch.Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[torch.Tensor]) -> torch.Tensor:
        return cams[0]

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def torchcam():
    """Insertion and deletion, 49 steps of 1,024 pixels on a baseline of zeros, against torch-cam's metric: equal areas."""
    from torchcam.metrics import DeletionInsertionMetric  # pyright: ignore[reportMissingImports]

    model, image, maps, target = vit(192, 3, 10), torch.randn(1, 3, 224, 224), torch.rand(1, 224, 224), [4]

    def theirs() -> dict[str, float]:
        metric = DeletionInsertionMetric(GivenMaps(model, maps), lambda logits: logits.softmax(-1), steps=49)
        metric.update(image, target)
        return metric.summary()

    def ours() -> dict[str, float]:
        areas = {}
        for curve in (insertion, deletion):
            areas[curve.__name__] = curve(model, image, maps, torch.tensor(target), baseline="zeros", steps=49).area
        return {name: area.mean().item() for name, area in areas.items()}

    reference, measured = theirs(), ours()
    for name, area in measured.items():
        np.testing.assert_allclose(area, next(v for key, v in reference.items() if name in key), rtol=1e-5)
    return {"torch-cam": theirs, "ours": ours}, "equal areas"


def captum():
    """Integrated gradients, 50 steps by the midpoint rule from 0, against captum's: equal values."""
    from captum.attr import IntegratedGradients as CaptumGradients  # pyright: ignore[reportMissingImports]

    model, image = vit(192, 3, 10), torch.randn(1, 3, 224, 224)

    def theirs() -> torch.Tensor:
        of_captum = CaptumGradients(model)
        return of_captum.attribute(image, target=3, n_steps=50, method="riemann_middle", internal_batch_size=16)

    def ours() -> torch.Tensor:
        return IntegratedGradients(model, 50).attribute(image, 3).values

    reference = theirs()
    torch.testing.assert_close(ours(), reference.float(), rtol=1e-3, atol=1e-5 * reference.abs().max().item())
    return {"captum": theirs, "ours": ours}, "equal values"


def quantus():
    """Quantus' pixel flipping of our maps, and its own maps as ours. Quantus 0.6 wants NumPy below 2.4, so it is no dependency."""
    try:
        import quantus  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"quantus: left out, {error} (install quantus and numpy<2.4 in an environment of their own)")
        return {}, ""
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, num_heads=2, depth=2, num_classes=5).eval()
    image, target = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.enable_grad():
        ours = IntegratedGradients(model, 20).attribute(image, target)
        metric = quantus.PixelFlipping(features_in_step=64, return_auc_per_sample=True, disable_warnings=True)
        arrays = {"x_batch": image.numpy(), "y_batch": target.numpy(), "a_batch": ours.to_quantus()}
        scores = metric(model=model, device="cpu", **arrays)
        theirs = quantus.explain(model, image.numpy(), target.numpy(), method="Saliency", device="cpu")
    back = Attribution.from_captum(torch.as_tensor(theirs), target)
    assert len(scores) == 4
    assert np.isfinite(scores).all()
    assert back.heatmap().shape == (4, 32, 32)
    print(
        f"quantus {quantus.__version__}: pixel flipping of our arrays {np.round(scores, 4)}, its arrays {theirs.shape} read"
    )
    return {}, ""


ROWS = {
    f.__name__: f
    for f in (promptcam, tcpa, sat, importance, edit, chm, curve, torchcam, captum, quantus, ranking, words, leaks)
}


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
