"""``explainability explain`` (also ``predict``)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.cli import plain
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.models import no_model
from core_runtime.options import (
    AtLeast,
    BulkOptions,
    Device,
    Flag,
    IntegerPair,
    Model,
    Names,
    Out,
    Seed,
    options,
    resolve_device,
)

KNOWN = ("gradcam", "ig", "lrp", "sr", "rollout", "attention", "own", "random")


@options
class MapOptions:
    """Which maps, and of what.

    Attributes:
        method: gradcam, ig, lrp, sr, rollout, attention, own (of Prompt-CAM, SAT and TCPA), or several of them.
        target: class that is explained, by name or number; default: the predicted one.
        grid: ROWS,COLUMNS of the model's tokens, where they cannot be inferred.
        layer: of Grad-CAM, by its name in the model; default: the last one that leads to the answer.
        steps: of the insertion and deletion curves.
        randomisation: also explain the model with random weights, which should look different.
    """

    method: Names = ("gradcam", "ig", "lrp")
    target: str | None = None
    grid: IntegerPair | None = None
    layer: str | None = None
    steps: Annotated[int, AtLeast(1)] = 20
    randomisation: Annotated[bool, Flag("--no-randomisation")] = True

    def __post_init__(self) -> None:
        unknown = [name for name in self.method if name not in KNOWN]
        if unknown:
            raise UserError(f"--method {','.join(unknown)}: no such method", f"methods are {', '.join(KNOWN)}")


@dataclass(frozen=True)
class Explanations(BulkOutcome):
    """What was explained.

    Attributes:
        out: a folder per picture with ``report.html``, ``maps.png``, ``maps.npz`` and ``explanation.json``.
        explanations: of each picture that succeeded, as in its ``explanation.json``.
        attempts: what became of each picture.
    """

    out: Path
    explanations: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"explanations": list(self.explanations), "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        for explanation in self.explanations:
            yield f"{explanation['picture']}: {explanation['target_name']} ({explanation['probability']:.2f})"
            for name, scores in explanation["methods"].items():
                unchanged = scores["random_weights_correlation"]
                check = "" if unchanged is None else f", with random weights {unchanged:+.2f}"
                yield f"  {name:10} insertion {scores['insertion']:.3f}, deletion {scores['deletion']:.3f}{check}"
            for name, why in explanation["refused"].items():
                yield f"  {name:10} not for this model: {why}"
        yield f"Reports: {self.out}"


def explain(
    path: Path,
    /,
    *,
    model: Model = None,
    maps: MapOptions = MapOptions(),
    out: Out = Path("explanations"),
    device: Device = "auto",
    seed: Seed = 0,
    run: BulkOptions = BulkOptions(),
) -> Explanations:
    """Shows why a model said what it said of a picture, and whether the map can be trusted. A rerun goes on.

    Every map comes with its insertion and deletion curve, its randomisation check and a random map's score beside.

    Example: explainability explain bird.jpg --model timm:vit_small_patch16_224 --method gradcam,lrp

    Args:
        path: a picture, or a folder of them.
    """
    from core_runtime.folders import name_in, output_names
    from core_runtime.identity import identity
    from core_runtime.pictures import open_picture
    from explainability.images.formats import find_images
    from explainability.models.loading import ADVICE

    files = find_images(path)
    if len(files) == 1:
        open_picture(files[0])  # a mistake in a single file is the user's first line
    if model is None:
        raise no_model(ADVICE)
    where = resolve_device(device)
    classifier = load(model, where)
    made_from = {"model": classifier.identity, "maps": plain(maps.__dict__), "seed": seed}
    names = [name_in(path, file) for file in files]
    items = []
    for file, name, folder in zip(files, names, output_names(names, ["log.jsonl"]), strict=True):
        key = {"input": identity(file), **made_from}
        items.append(Item(name, (file, model, where, maps, seed), out / folder, key=key, inputs=[file]))
    attempts = bulk(explain_item, items, run, log=out / "log.jsonl", description="Explaining")
    return Explanations(out, read_results(items, attempts, "explanation.json"), attempts)


@keep_latest
def load(model: str, device: str) -> Any:
    """The model, once in each process."""
    from explainability.models.loading import load_classifier

    return load_classifier(model, device)


def explain_item(item: Item) -> dict[str, Any]:
    """Writes the explanation of one picture: all of its files or none."""
    import numpy as np
    import torch

    from core_runtime.folders import writing
    from core_runtime.pictures import open_picture
    from explainability.attribution.explaining import Checks, explain_batch
    from explainability.attribution.targets import logits_of
    from explainability.reports.explanation import write_report

    file, model, device, maps, seed = item.source
    classifier = load(model, device)
    picture = open_picture(file)
    image = classifier.prepare(picture.image).to(classifier.device)
    with torch.no_grad():
        probabilities = logits_of(classifier.model(image)).softmax(-1)[0]
    target = classifier.number(maps.target, len(probabilities))
    if target is None:
        target = int(probabilities.argmax())
    checks = Checks(maps.steps, maps.randomisation, seed)
    explanations, refused = explain_batch(
        classifier.model, image, maps.method, target, checks, grid=maps.grid, layer=maps.layer
    )
    asked = [method for method in maps.method if method in explanations]
    if not asked:
        raise UserError(next(iter(refused.values())), "choose another --method, --layer or --grid")
    methods = {}
    for name, explanation in explanations.items():
        unchanged = explanation.unchanged
        methods[name] = {
            "insertion": float(explanation.insertion.area[0]),
            "deletion": float(explanation.deletion.area[0]),
            "random_weights_correlation": None if unchanged is None else float(unchanged[0]),
            "box": list(explanation.attribution.boxes()[0]),
            **plain(explanation.attribution.meta),
        }
    order = probabilities.argsort(descending=True)[:5].tolist()
    content = {
        "picture": item.name,
        "notes": list(picture.notes),
        "target": target,
        "target_name": classifier.name(target),
        "probability": float(probabilities[target]),
        "best": [{"class": classifier.name(number), "probability": float(probabilities[number])} for number in order],
        "size": list(classifier.size),
        "methods": methods,
        "refused": refused,
    }
    with writing(item.output) as part:
        part.mkdir()
        arrays = {name: explanation.attribution.to_numpy()[0] for name, explanation in explanations.items()}
        upsampled = {f"{name}_upsampled": e.maps[0].cpu().numpy() for name, e in explanations.items()}
        np.savez_compressed(part / "maps.npz", allow_pickle=False, **arrays, **upsampled)
        write_report(part, picture.image, explanations, content)
        text = json.dumps(plain(content), ensure_ascii=False, indent=1)
        (part / "explanation.json").write_text(text, encoding="utf-8")
    return {"target": classifier.name(target)}
