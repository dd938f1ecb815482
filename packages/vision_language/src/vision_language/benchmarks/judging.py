"""CHAIR, MMVP-VLM and GeneCIS judged, each beside a predictor that sees no picture."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.pictures import open_picture
from vision_language.benchmarks.judged import Judged
from vision_language.benchmarks.others import chair, mentioned, mmvp_hit, rank_of, read_genecis, read_mmvp
from vision_language.items.lines import read_entries, refuse_repeats, text_of
from vision_language.metrics import recall_at
from vision_language.model.retrieval import Embedder


def judge_chair(folder: Path, captions: Path) -> Judged:
    """Captions against COCO's objects, beside one caption of the three commonest objects for every picture.

    Args:
        folder: with ``synonyms.txt`` (a line per object, its names by commas), ``instances*.json``, and where there
            are any ``captions*.json``, whose mentions count as there, as Rohrbach et al. count them.
        captions: lines with image and caption.
    """
    synonyms = _read_synonyms(folder / "synonyms.txt")
    objects = _read_objects(folder, synonyms)
    given: dict[str, str] = {}
    names = []
    for where, entry in read_entries(captions, what="lines with image and caption"):
        names.append(text_of(where, entry, "image"))
        given[names[-1]] = text_of(where, entry, "caption")
    refuse_repeats(captions, names)
    unknown = [image for image in given if image not in objects]
    judged = {image: caption for image, caption in given.items() if image in objects}
    if not judged:
        raise UserError(f"{captions}: none of its {len(given)} pictures is in {folder}", "pictures go by file name")
    counts = Counter(name for present in objects.values() for name in sorted(present))
    blind = " and ".join(name for name, _ in counts.most_common(3))
    rows = []
    for predictor, texts in (("commonest objects", dict.fromkeys(judged, blind)), ("answers", judged)):
        for row in chair(texts, objects, synonyms):
            invents = float(row["hallucinated"] > 0)
            rows.append({"predictor": predictor, "group": row["image"], "CHAIR_s": invents, **row})
    account = f"{len(judged):,} captions about pictures with {len(counts)} kinds of objects"
    why = "their pictures are not in the annotations"
    return Judged(rows, ("CHAIR_s",), account, len(unknown), why, {"commonest objects": blind})


def _read_synonyms(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "CHAIR's synonyms: a line per object") from None
    synonyms = {}
    for line in lines:
        names = [name.strip().lower() for name in line.split(",") if name.strip()]
        for name in names:
            synonyms[name] = names[0]
    return synonyms


def _read_objects(folder: Path, synonyms: dict[str, str]) -> dict[str, set[str]]:
    """File name → the objects in it, by every ``instances*.json`` and ``captions*.json`` of the folder."""
    files = sorted(folder.glob("instances*.json"))
    if not files:
        raise UserError(f"{folder} holds no instances*.json", "CHAIR's truth stands in COCO's annotations")
    objects: dict[str, set[str]] = {}
    for file in [*files, *sorted(folder.glob("captions*.json"))]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            images = {image["id"]: str(image["file_name"]) for image in content["images"]}
            categories = {each["id"]: str(each["name"]).lower() for each in content.get("categories", [])}
            for image in images.values():
                objects.setdefault(image, set())
            for annotation in content["annotations"]:
                present = objects[images[annotation["image_id"]]]
                if "caption" in annotation:
                    present.update(mentioned(annotation["caption"], synonyms))
                else:
                    category = categories[annotation["category_id"]]
                    present.add(synonyms.get(category, category))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not COCO's: {type(error).__name__} {error}") from None
    return objects


def judge_mmvp(path: Path, embedder: Embedder, images: Path | None, seed: int) -> Judged:
    """Pairs of which both pictures are nearer to their own statement, beside a coin per picture (a quarter of pairs).

    Args:
        path: Questions.csv, or the folder that holds it.
        images: the folder of ``KIND/ID.jpg``; default: ``MLLM_VLM Images`` beside the questions.
    """
    file = path / "Questions.csv" if path.is_dir() else path
    folder = images if images is not None else file.parent / "MLLM_VLM Images"
    coin = random.Random(seed)
    rows: list[dict[str, Any]] = []
    missing = 0
    pairs = read_mmvp(file)
    for pair in pairs:
        pictures = [folder / pair.kind / f"{name}.jpg" for name in pair.names]
        if not all(picture.is_file() for picture in pictures):
            missing += 1
            continue
        vectors = embedder.embed([open_picture(picture).image for picture in pictures])
        similarities = vectors @ embedder.embed_texts(pair.statements).cpu().numpy().T
        hits = {"coin": coin.random() < 0.25, "model": mmvp_hit(similarities.tolist())}
        for predictor, hit in hits.items():
            row = {"predictor": predictor, "id": pair.names[0], "group": pair.names[0], "kind": pair.kind}
            rows.append(row | {"accuracy": float(hit)})
    if not rows:
        raise UserError(f"{folder}: none of the {len(pairs)} pairs of pictures is there", "--images names their folder")
    account = f"{len(pairs)} pairs of pictures"
    return Judged(rows, ("accuracy",), account, missing, "their pictures are not there", {})


def judge_genecis(path: Path, embedder: Embedder, images: Path | None, seed: int) -> Judged:
    """Recall of the target in its gallery under the condition, under none, and in a gallery that is shuffled."""
    if images is None:
        raise UserError("genecis needs its pictures", "--images names the folder of ID.jpg or ID.png")
    shuffle = random.Random(seed)
    rows: list[dict[str, Any]] = []
    missing = 0
    queries = read_genecis(path)
    for number, query in enumerate(queries):
        names = (query.reference, query.target, *query.gallery)
        pictures = [_picture_in(images, name) for name in names]
        present = [picture for picture in pictures if picture is not None]
        if len(present) < len(pictures):
            missing += 1
            continue
        opened = [open_picture(picture).image for picture in present]
        ranks = {"shuffled gallery": shuffle.randrange(len(query.gallery) + 1)}
        for predictor, words in (("no instruction", ""), ("model", query.condition)):
            vectors = embedder.embed(opened, words)
            target, *others = (vectors[1:] @ vectors[0]).tolist()
            ranks[predictor] = rank_of(target, others)
        for predictor, rank in ranks.items():
            row = {"predictor": predictor, "id": str(number), "group": query.reference}
            rows.append(row | {f"R@{k}": recall_at(rank, k) for k in (1, 2, 3)})
    if not rows:
        raise UserError(f"{images}: no query has all of its pictures there", "pictures are ID.jpg or ID.png")
    account = f"{len(queries):,} queries"
    return Judged(rows, ("R@1", "R@2", "R@3"), account, missing, "a picture of theirs is not there", {})


def _picture_in(folder: Path, name: str) -> Path | None:
    """COCO pads its ids to twelve digits; Visual Genome does not."""
    for stem in (name, name.zfill(12)):
        for ending in ("", ".jpg", ".png"):
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}"
    return None
