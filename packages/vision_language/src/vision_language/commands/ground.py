"""``vision-language ground``, alias ``predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.models import no_model
from core_runtime.options import Between, BulkOptions, Device, Model, Out, resolve_device


@dataclass(frozen=True)
class Groundings(BulkOutcome):
    """Where sentences point.

    Attributes:
        out: the folder; one folder per picture with ``grounding.json``, and per sentence a mask, a heat map and an overlay.
        groundings: of each picture that succeeded: its name, and its `vision_language.results.Grounding` as plain values.
        attempts: what became of each picture.
    """

    out: Path
    groundings: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"groundings": list(self.groundings), "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        for picture in self.groundings:
            for note in picture["notes"]:
                yield f"Note: {picture['picture']}: {note}"
            for grounding in picture["sentences"]:
                x, y = grounding["point"]["pixels"]
                line = f"{picture['picture']}: {grounding['sentence']} → ({x:.1f}, {y:.1f}) px"
                if grounding["box"] is not None:
                    left, top, right, bottom = grounding["box"]["pixels"]
                    line += f", box {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}, {grounding['area']:.1%} of the picture"
                yield line
                for note in grounding["notes"]:
                    yield f"  {note}"
        yield f"Masks, heat maps and overlays: {self.out}"


def ground(
    pictures: Path,
    /,
    *sentences: str,
    model: Model = None,
    threshold: Annotated[float | None, Between(0, 1)] = None,
    images: Path | None = None,
    out: Out = Path("vision-language-groundings"),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Groundings:
    """Says which pixels a sentence means: mask, heat map, box, point, and where each word looks. A rerun goes on.

    Example: vision-language ground photo.jpg "the red cup" --model run/model

    Args:
        pictures: a picture, a folder of them, or JSON lines with image and sentence.
        sentences: what is to be found; of JSON lines none.
        threshold: above which a pixel is meant; default: probability 0.5 of our networks, Otsu's threshold of RefAM's heat.
        images: folder of the pictures of JSON lines.
    """
    from core_runtime.folders import name_in, output_names
    from core_runtime.identity import identity, model_identity
    from core_runtime.pictures import open_picture
    from vision_language.model.folder import ADVICE

    questions = find_questions(pictures, sentences, images)
    if len(questions) == 1:
        open_picture(questions[0][0])  # a mistake in a single file is the user's first line
    if model is None:
        raise no_model(ADVICE)
    where = resolve_device(device)
    load(model, where)
    if not questions[0][1]:
        raise UserError(
            "no sentence was given",
            'write it behind the picture: vision-language ground photo.jpg "the red cup"',
        )
    # a pipeline's parts stand in folders of their own
    pipeline = (Path(model) / "model_index.json").is_file()
    made_by = identity(Path(model)) if pipeline else model_identity(Path(model))
    made_from = {"model": made_by, "threshold": threshold}
    names = [name_in(pictures, image) for image, _ in questions]
    items = []
    for (image, asked), name, output in zip(questions, names, output_names(names, taken=["log.jsonl"]), strict=True):
        key = {"input": identity(image) if image.is_file() else None, "sentences": list(asked), **made_from}
        items.append(Item(name, (image, asked, model, where, threshold), out / output, key=key, inputs=[image]))
    attempts = bulk(ground_item, items, run, log=out / "log.jsonl", description="Grounding")
    return Groundings(out, read_results(items, attempts, "grounding.json"), attempts)


def find_questions(path: Path, sentences: Sequence[str], images: Path | None) -> list[tuple[Path, tuple[str, ...]]]:
    """(picture, sentences), from pictures and given sentences or from JSON lines.

    Raises:
        UserError: nothing is there, sentences for JSON lines, or one without a word.
    """
    from core_runtime.pictures import find_pictures
    from vision_language.items.lines import read_entries, text_of
    from vision_language.model.sentences import usable_sentence

    for sentence in sentences:
        usable_sentence(sentence)
    if path.suffix.lower() not in (".json", ".jsonl") or path.is_dir():
        return [(file, tuple(sentences)) for file in find_pictures(path)]
    if sentences:
        raise UserError(f"{path} holds its own sentences", "give none behind it")
    by_image: dict[Path, list[str]] = {}
    for where, entry in read_entries(path, what="lines with image and sentence"):
        name = text_of(where, entry, "image", "img_filename")
        sentence = usable_sentence(text_of(where, entry, "sentence", "question", "instruction", "text"))
        folder = images if images is not None else path.parent
        file = folder / name
        if images is None and not file.is_file() and (folder / "images" / name).is_file():
            file = folder / "images" / name
        by_image.setdefault(file, []).append(sentence)
    return [(image, tuple(dict.fromkeys(asked))) for image, asked in by_image.items()]


@keep_latest
def load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is: a network of ours, or a pipeline that RefAM reads."""
    from vision_language.model.folder import load_grounder

    if (Path(model) / "model_index.json").is_file():
        from vision_language.model.diffusion import load_pipeline

        return load_pipeline(model, device)
    return load_grounder(model, device)


def ground_item(item: Item) -> dict[str, Any]:
    """Writes all files of one picture, or none."""
    import numpy as np
    from PIL import Image

    from core_runtime.cli import plain
    from core_runtime.folders import writing
    from core_runtime.pictures import open_picture
    from vision_language.reports.overlay import draw_grounding, heat_picture

    path, sentences, model, device, threshold = item.source
    picture = open_picture(path)
    groundings = load(model, device).ground(picture.image, sentences, threshold=threshold)
    rows = []
    with writing(item.output) as part:
        part.mkdir()
        for number, grounding in enumerate(groundings, 1):
            Image.fromarray(grounding.mask.astype(np.uint8) * 255).save(part / f"mask_{number:03}.png")
            heat_picture(grounding.heat).save(part / f"heat_{number:03}.png")
            draw_grounding(picture.image, grounding).save(part / f"overlay_{number:03}.png")
            rows.append(grounding.facts())
        content = {"picture": item.name, "notes": list(picture.notes), "sentences": rows}
        text = json.dumps(plain(content), ensure_ascii=False, indent=1)
        (part / "grounding.json").write_text(text, encoding="utf-8")
    return {"sentences": len(rows)}
