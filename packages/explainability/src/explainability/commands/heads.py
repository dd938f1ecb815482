"""``explainability heads``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk
from core_runtime.cli import plain
from core_runtime.errors import UserError
from core_runtime.models import no_model
from core_runtime.options import AtLeast, BulkOptions, Device, Model, Out, Seed, resolve_device
from explainability.commands.explain import load

if TYPE_CHECKING:
    from torch import Tensor

PART = 16  # pictures at a time
Measure = Literal["prob_drop", "loss_increase", "jsd", "cls_shift"]


@dataclass(frozen=True)
class Heads(BulkOutcome):
    """What the attention heads of a model do on a set of pictures.

    Attributes:
        out: folder with ``store/``, ``report.html`` and ``heads.json``.
        summary: as in ``heads.json``; empty where pictures failed.
        attempts: what became of each part of the pictures.
    """

    out: Path
    summary: Mapping[str, Any]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {**self.summary, "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        if not self.summary:
            yield "The heads were not measured on all pictures: mend what is named above and run the same command again."
            return
        s = self.summary
        yield f"{s['pictures']} pictures, {s['layers']} layers of {s['heads']} heads, ranked by {s['measure']}"
        for head in s["ranking"][:5]:
            yield f"  layer {head['layer']}, head {head['head']}: {head['mean']:+.4f} (sd {head['sd']:.4f}), looks {head['distance']:.1f} patches far"
        areas = ", ".join(f"{name.replace('_', ' ')} {area:.3f}" for name, area in s["pruning_areas"].items())
        yield f"Accuracy while heads are pruned, area under the curve: {areas}"
        yield f"The gradient preview agrees with it by Spearman's {s['agreement']['gradient_proxy']:+.2f}"
        for pattern in s["patterns"]:
            yield f"  pattern {pattern['number']}: {pattern['suggestion']}, {100 * pattern['share']:.0f} % of the maps"
        yield f"Report: {self.out / 'report.html'}"


def heads(
    path: Path,
    /,
    *,
    model: Model = None,
    measure: Measure = "prob_drop",
    maps: Annotated[int, AtLeast(1)] = 12,
    prune: Annotated[int, AtLeast(1)] = 50,
    out: Out = Path("heads"),
    device: Device = "auto",
    seed: Seed = 0,
    run: BulkOptions = BulkOptions(),
) -> Heads:
    """Measures which attention heads matter, how far they look and which patterns they show, over a set of pictures. A rerun goes on.

    Importance is exact: every head is pruned by itself and the change of the answer measured. All of it stays in a store of which slices
    can be read (`HeadStore.open(out / "store").slice("jsd", 0)`).

    Example: explainability heads shapes/test --model run/model

    Args:
        path: pictures, best some hundred; where their folders are called like classes, importance is of the true class.
        measure: by which heads are ranked and pruned.
        maps: pictures whose attention maps are kept and clustered into patterns.
        prune: pictures on which heads are pruned one after another.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import data_fingerprint
    from explainability.images.formats import find_images
    from explainability.models.loading import ADVICE
    from explainability.reports.heads import write_heads
    from explainability.vit.backbone import check_backbone

    files = find_images(path)
    if model is None:
        raise no_model(ADVICE)
    where = resolve_device(device)
    classifier = load(model, where)
    try:
        check_backbone(classifier.model)
    except ValueError as error:
        raise UserError(
            f"{model}: {error}", "heads are measured in plain vision transformers of timm, or of 'train'"
        ) from None
    labels = labels_of(files, classifier.names)
    items = []
    for number, first in enumerate(range(0, len(files), PART)):
        part = files[first : first + PART]
        with_maps = max(0, min(len(part), maps - first))
        source = (part, labels[first : first + PART], model, where, with_maps)
        key = {"pictures": data_fingerprint(part), "model": classifier.identity, "kept": with_maps}
        words = f"pictures {first + 1} to {first + len(part)}"
        items.append(Item(words, source, out / "parts" / f"{number:05d}.safetensors", key=key, inputs=part))
    attempts = bulk(measure_part, items, run, log=out / "log.jsonl", description="Pruning heads", parts=True)
    if not all(attempt.ok for attempt in attempts):
        return Heads(out, {}, attempts)
    summary, drawn = summarise(out, [item.output for item in items], files, labels, classifier, measure, prune, seed)
    write_text(out / "heads.json", json.dumps(plain(summary), ensure_ascii=False, indent=1))
    write_heads(out, summary, drawn)
    return Heads(out, summary, attempts)


def labels_of(files: Sequence[Path], classes: Sequence[str]) -> list[int]:
    """The class by the name of each picture's folder; −1 where it is none: then the predicted class counts."""
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers.get(file.parent.name, -1) for file in files]


def prepare_all(files: Sequence[Path], classifier: Any) -> "Tensor":
    """The pictures as the model takes them."""
    import torch

    from core_runtime.pictures import open_picture

    return torch.cat([classifier.prepare(open_picture(file).image) for file in files]).to(classifier.device)


def measure_part(item: Item) -> dict[str, Any]:
    """Writes the measures of some pictures."""
    import torch
    from safetensors.torch import save_file

    from core_attention import capture
    from core_runtime.folders import writing
    from explainability.vit.backbone import grid_of
    from explainability.vit_analytics.distance import hop_strength
    from explainability.vit_analytics.importance import MEASURES, gradient_proxy, head_importance
    from explainability.vit_analytics.store import quantise

    files, labels, model, device, with_maps = item.source
    classifier = load(model, device)
    network = classifier.model
    images = prepare_all(files, classifier)
    with torch.no_grad():
        predicted = network(images).argmax(-1)
    given = torch.tensor(labels, device=images.device)
    label = torch.where(given < 0, predicted, given)
    importance = head_importance(network, images, label)
    grid = grid_of(network, images)
    columns = {name: getattr(importance, name) for name in MEASURES}
    columns["gradient_proxy"] = gradient_proxy(network, images, label)
    hops: dict[str, list[Tensor]] = {}
    attention: list[Tensor] = []
    # one picture at a time: all maps of a batch would take gigabytes
    for number in range(len(images)):
        with torch.no_grad(), capture(network) as maps:
            network(images[number : number + 1])
        weights = torch.stack([maps[name][0] for name in maps])
        strength = hop_strength(weights, grid)
        for name in ("mass", "strength", "distance", "entropy", "share_to_prefix"):
            hops.setdefault(name, []).append(getattr(strength, name))
        if number < with_maps:
            prefix = weights.shape[-1] - grid[0] * grid[1]
            inner = weights[..., prefix:, prefix:]
            attention.append(quantise(inner / inner.sum(-1, keepdim=True).clamp(min=1e-12)))
    columns |= {name: torch.stack(values) for name, values in hops.items()}
    columns["logits"] = importance.logits
    if attention:
        columns["attention"] = torch.stack(attention)
    unusable = [
        name for name, values in columns.items() if values.is_floating_point() and not bool(values.isfinite().all())
    ]
    if unusable:
        raise UserError(
            f"{', '.join(unusable)} of these pictures are not finite", "check the model: 'explainability models check'"
        )
    with writing(item.output) as part:
        save_file({name: values.cpu().contiguous() for name, values in columns.items()}, part)
    return {"pictures": len(files)}


def summarise(
    out: Path,
    parts: Sequence[Path],
    files: Sequence[Path],
    labels: Sequence[int],
    classifier: Any,
    measure: str,
    prune: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the store; the facts of ``heads.json``, and what the report draws."""
    import torch
    from safetensors.torch import load_file

    from explainability.vit.backbone import grid_of
    from explainability.vit_analytics.importance import MEASURES
    from explainability.vit_analytics.patterns import (
        choose_clusters,
        describe_patterns,
        head_histograms,
        project,
        scale_maps,
        train_autoencoder,
    )
    from explainability.vit_analytics.store import HeadStore, restore

    loaded = [load_file(part) for part in parts]
    names = [name for name in loaded[0] if name != "attention"]
    arrays = {name: torch.cat([part[name] for part in loaded]) for name in names}
    arrays["attention"] = torch.cat([part["attention"] for part in loaded if "attention" in part])
    images = prepare_all(files[:prune], classifier)
    rows, columns = grid_of(classifier.model, images)
    mean = arrays[measure].mean(0)
    layers, count = mean.shape
    curves = prune_in_order(classifier.model, images, labels[:prune], arrays["logits"], mean, seed)
    areas = {name: float(torch.trapezoid(curve) / (len(curve) - 1)) for name, curve in curves.items()}

    weights = restore(arrays["attention"]).flatten(0, 2)
    small = scale_maps(weights)
    network, error = train_autoencoder(small, seed=seed)
    with torch.no_grad():
        latents = torch.cat([network.encoder(part) for part in small.split(256)])
    clusters, score = choose_clusters(latents, seed=seed)
    patterns = describe_patterns(weights, latents, clusters, (rows, columns))
    with_maps = len(arrays["attention"])
    arrays["pattern"] = clusters.view(with_maps, layers, count)
    arrays["latents"] = latents.view(with_maps, layers, count, -1)
    shares, purity = head_histograms(arrays["pattern"], len(patterns))

    means = {name: arrays[name].mean(0) for name in (*MEASURES, "gradient_proxy", "distance", "entropy")}
    facts = {"pictures": [str(file) for file in files], "labels": list(labels), "classes": list(classifier.names)}
    facts |= {"grid": [rows, columns], "model": classifier.identity, "kept_maps": with_maps}
    HeadStore.write(out / "store", arrays, facts)
    summary = {
        "pictures": len(files),
        "layers": layers,
        "heads": count,
        "measure": measure,
        "ranking": rank(mean, arrays[measure].std(0, correction=0), means, purity),
        "agreement": agreement_of(measure, means),
        "pruning": {name: curve.tolist() for name, curve in curves.items()},
        "pruning_areas": areas,
        "trends": trends_of(arrays),
        "patterns": [{"number": p.number, "share": p.share, "suggestion": p.suggestion} for p in patterns],
        "reconstruction_error": error,
        "silhouette": score,
    }
    drawn = {
        "importance": mean,
        "means": means,
        "distance": arrays["distance"].mean(0),
        "points": project(latents),
        "clusters": clusters,
        "medoids": [small[p.medoid, 0] for p in patterns],
        "patterns": patterns,
        "shares": shares,
    }
    return summary, drawn


def prune_in_order(
    model: Any, images: "Tensor", labels: Sequence[int], logits: "Tensor", mean: "Tensor", seed: int
) -> dict[str, "Tensor"]:
    """What is left of the answer while heads are pruned one after another: the least important first, at random, the most important first."""
    import torch

    from explainability.vit_analytics.importance import cumulative_pruning

    known = torch.tensor(labels, device=images.device)
    answers = logits[: len(labels)].argmax(-1).to(images.device)
    label = torch.where(known < 0, answers, known)  # pictures without a class of the model's: what it answers
    at_random = torch.rand(mean.shape, generator=torch.Generator().manual_seed(seed))
    orders = {"least_first": (mean, False), "random": (at_random, False), "most_first": (mean, True)}
    curves = {}
    for name, (ranking, first) in orders.items():
        curves[name] = cumulative_pruning(model, images, label, ranking, most_important_first=first)
    return curves


def agreement_of(measure: str, means: Mapping[str, "Tensor"]) -> dict[str, float]:
    """Rank correlation of the chosen measure with each other one; a measure that is the same for all heads has none."""
    from explainability.attribution.metrics import rank_correlation
    from explainability.vit_analytics.importance import MEASURES

    agreement = {}
    for name in (*MEASURES, "gradient_proxy"):
        if name == measure or bool((means[name] == means[name].flatten()[0]).all()):
            continue
        agreement[name] = float(rank_correlation(means[measure][None], means[name][None])[0])
    agreement.setdefault("gradient_proxy", float("nan"))
    return agreement


def rank(mean: "Tensor", sd: "Tensor", means: Mapping[str, "Tensor"], purity: "Tensor") -> list[dict[str, Any]]:
    """The heads, the most important first."""
    ranking = []
    for place in mean.flatten().argsort(descending=True, stable=True).tolist():
        layer, head = divmod(place, mean.shape[1])
        ranking.append(
            {
                "layer": layer,
                "head": head,
                "mean": float(mean[layer, head]),
                "sd": float(sd[layer, head]),
                "distance": float(means["distance"][layer, head]),
                "entropy": float(means["entropy"][layer, head]),
                "purity": float(purity[layer, head]),
            }
        )
    return ranking


def trends_of(arrays: Mapping[str, "Tensor"]) -> dict[str, dict[str, list[float]]]:
    """Distance, entropy and the share of neighbours by layer."""
    from explainability.vit_analytics.distance import layer_trend

    measured = {
        "distance": arrays["distance"],
        "entropy": arrays["entropy"],
        "within_1": arrays["mass"][..., :2].sum(-1),
    }
    trends = {}
    for name, values in measured.items():
        trend = layer_trend(values)
        trends[name] = {"mean": trend.mean.tolist(), "sd": trend.sd.tolist()}
    return trends
