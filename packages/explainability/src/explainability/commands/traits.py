"""``explainability traits``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.cli import plain
from core_runtime.errors import UserError
from core_runtime.models import no_model
from core_runtime.options import AtLeast, BulkOptions, Device, Model, Out, resolve_device
from explainability.commands.explain import load


@dataclass(frozen=True)
class Traits(BulkOutcome):
    """Heads in the order of their importance for a class.

    Attributes:
        out: a folder per picture with ``traits.json``, ``traits.npz`` and ``traits.png``.
        pictures: of each picture that succeeded, as in its ``traits.json``.
        attempts: what became of each picture.
    """

    out: Path
    pictures: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"pictures": list(self.pictures), "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        for picture in self.pictures:
            heads = ", ".join(str(head) for head in picture["most_important"])
            yield (
                f"{picture['picture']}: {picture['target_name']} ({picture['initial']:.2f}), heads {heads}; "
                f"with these alone {picture['kept']:.2f}, with none {picture['probabilities'][-1]:.2f}"
            )
        yield f"Pictures of the traits: {self.out}"


def traits(
    path: Path,
    /,
    *,
    model: Model = None,
    target: str | None = None,
    heads: Annotated[int, AtLeast(1)] = 4,
    out: Out = Path("traits"),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Traits:
    """Shows the traits by which Prompt-CAM tells a class: its heads, ranked by blurring one after another. A rerun goes on.

    Each step blurs the head that the class misses least; the heads that stay sharp longest are its traits.

    Example: explainability traits bird.jpg --model prompts/model

    Args:
        path: a picture, or a folder of them.
        target: class whose traits are shown, by name or number; default: the predicted one.
        heads: how many are drawn.
    """
    from core_runtime.folders import name_in, output_names
    from core_runtime.identity import identity
    from explainability.images.formats import find_images
    from explainability.models.loading import ADVICE
    from explainability.promptcam.model import PromptCAM

    files = find_images(path)
    if model is None:
        raise no_model(ADVICE)
    where = resolve_device(device)
    classifier = load(model, where)
    if not isinstance(classifier.model, PromptCAM):
        raise UserError(
            f"{model} is a {type(classifier.model).__name__}, which has no class prompts",
            "'explainability train FOLDER --method prompt-cam' makes a model that has; 'explain' works with any",
        )
    names = [name_in(path, file) for file in files]
    items = []
    for file, name, folder in zip(files, names, output_names(names, ["log.jsonl"]), strict=True):
        key = {"input": identity(file), "model": classifier.identity, "target": target, "heads": heads}
        items.append(Item(name, (file, model, where, target, heads), out / folder, key=key, inputs=[file]))
    attempts = bulk(rank_item, items, run, log=out / "log.jsonl", description="Ranking")
    return Traits(out, read_results(items, attempts, "traits.json"), attempts)


def rank_item(item: Item) -> dict[str, Any]:
    """Writes the traits of one picture: all of its files or none."""
    import numpy as np
    import torch

    from core_runtime.folders import writing
    from core_runtime.pictures import open_picture
    from explainability.promptcam.blurring import rank_heads
    from explainability.reports.figures import draw_traits

    file, model, device, target, count = item.source
    classifier = load(model, device)
    network = classifier.model
    picture = open_picture(file)
    image = classifier.prepare(picture.image).to(classifier.device)
    with torch.no_grad():
        probabilities = network(image).softmax(-1)[0]
        number = classifier.number(target, len(probabilities))
        if number is None:
            number = int(probabilities.argmax())
        maps = network.class_maps(image, [number])[0, 0].cpu().numpy()
    ranking = rank_heads(network, image, number)
    best = ranking.most_important(count)
    blurred = len(ranking.order) - len(best)
    content = {
        "picture": item.name,
        "notes": list(picture.notes),
        "target": number,
        "target_name": classifier.name(number),
        "initial": ranking.initial,
        "order": ranking.order,
        "probabilities": ranking.probabilities,
        "most_important": best,
        "kept": ranking.probabilities[blurred - 1] if blurred else ranking.initial,
    }
    with writing(item.output) as part:
        part.mkdir()
        np.savez_compressed(part / "traits.npz", allow_pickle=False, maps=maps, order=np.array(ranking.order))
        draw_traits(picture.image, maps[best], best, classifier.name(number)).savefig(part / "traits.png", dpi=110)
        text = json.dumps(plain(content), ensure_ascii=False, indent=1)
        (part / "traits.json").write_text(text, encoding="utf-8")
    return {"heads": best}
