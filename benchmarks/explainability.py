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

import torch  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from core_attention.mechanisms.tcpa.attention import TokenCoordinatedPrompts  # noqa: E402
from explainability.attribution.metrics import insertion  # noqa: E402
from explainability.chm_corr.decision import Support  # noqa: E402
from explainability.chm_corr.learner import CHMLearner  # noqa: E402
from explainability.promptcam.blurring import blurred_logits, rank_heads  # noqa: E402
from explainability.promptcam.model import PromptCAM  # noqa: E402
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
    """Eight pairs through the CHM learner (128 channels), at once and one at a time; the published network is not here to be timed."""
    model, source, target = CHMLearner(128).eval(), torch.randn(1, 128, 15, 15), torch.randn(8, 128, 15, 15)

    def one_at_a_time() -> None:
        for pair in target:
            model(source, pair[None])

    return {
        "pair at a time": one_at_a_time,
        "ours": lambda: model(source.expand(8, -1, -1, -1), target),
    }, "≥ 4 × the published learner, which is not measured here"


def curve():
    """An insertion curve of 50 steps against the bare forward passes."""
    model, image = vit(192, 3, 10), torch.randn(1, 3, 224, 224)
    maps, target = torch.rand(1, 224, 224), torch.tensor([0])

    def bare() -> None:
        for size in (32, 19):
            model(image.expand(size, -1, -1, -1))

    return {"51 forward passes": bare, "ours": lambda: insertion(model, image, maps, target)}, "≤ 1.1 ×"


ROWS = {f.__name__: f for f in (promptcam, tcpa, sat, importance, edit, chm, curve, ranking)}


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
            # processor time: other processes of a shared machine do not count
            times = paired(contestants, rounds=args.rounds, clock=time.process_time)
        base = next(iter(times.values()))
        rows = []
        for contestant, measured in times.items():
            rows.append({"": contestant, "ms": f"{1000 * measured.median:.1f}", "of the first": ratio(measured, base)})
        show(f"{name}: {row.__doc__} Wanted: {required}", rows, args.json)


if __name__ == "__main__":
    main()
