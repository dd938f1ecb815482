"""``gui-grounding evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, bulk
from core_runtime.bulk import Item as Job
from core_runtime.cli import plain
from core_runtime.options import AtLeast, BulkOptions, Device, Model, Out, Seed, resolve_device
from gui_grounding.commands.predict import AskOptions, load
from gui_grounding.items.conventions import Convention
from gui_grounding.items.item import BUCKET_NAMES, Item

BY = ("group", "platform", "type", "group × type", "size", "application")
Table = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Evaluation(BulkOutcome):
    """How often the point is in the target.

    Attributes:
        table: predictor → slice ("all", "type: text", …) → items, and each measure with its interval over screenshots.
        values: what was read and left out, how boxes were counted, how the model was asked, versions.
        out: the folder with predictions.jsonl, metrics.json, table.md, table.csv, table.tex and report.html.
        attempts: what became of each screenshot.
    """

    table: Table
    values: Mapping[str, Any]
    out: Path
    attempts: Sequence[Attempt]

    @property
    def unjudged(self) -> str:
        """How many items have no row in the table."""
        items, screenshots = self.values["failed_items"], len(self.values["failed"])
        return f"not judged   {items} items of {screenshots} screenshots that failed: they are in no figure"

    def facts(self) -> dict[str, Any]:
        return {**self.values, "measures": self.table, "out": self.out}

    def lines(self) -> Iterable[str]:
        for note in self.values["notes"]:
            yield f"Note: {note}"
        yield self.values["account"]
        for predictor, slices in self.table.items():
            for name, row in slices.items():
                if name == "all" or name.startswith(("type", "group:")):
                    hit = row["hit@1"]
                    span = f"({hit['low']:.3f} to {hit['high']:.3f})"
                    yield f"{predictor:12} {name:18} hit@1 {hit['value']:.3f} {span}, {row['items']} items"
        if self.values["failed_items"]:
            yield self.unjudged
        believed = self.values["calibration"]
        if believed is not None:
            expected, surer = believed["mean probability"], believed["hit@1 of the surer half"]
            yield f"Expected by its own probabilities: {expected:.3f}; hit@1 of the surer half of the items: {surer:.3f}"
        yield f"Tables, predictions and the failures: {self.out / 'report.html'}"


def evaluate(
    annotations: Path,
    /,
    *,
    model: Model = None,
    images: Path | None = None,
    boxes: Convention | None = None,
    ask: AskOptions = AskOptions(),
    blind: bool = False,
    most: Annotated[int, AtLeast(1)] | None = None,
    resamples: Annotated[int, AtLeast(10)] = 1000,
    seed: Seed = 0,
    out: Out = Path("gui-evaluation"),
    device: Device = "auto",
    precision: Literal["as-saved", "float32", "bfloat16"] = "as-saved",
    run: BulkOptions = BulkOptions(),
) -> Evaluation:
    """Judges a model on a benchmark, beside the screenshot's centre. A rerun goes on with the screenshots that are not done.

    Example: gui-grounding evaluate screenspot/ --model run/model --out run/evaluation

    Args:
        annotations: ScreenSpot, v2, Pro or OSWorld-G: a file, or a folder with annotations and images.
        images: folder of the screenshots; default: images/ beside the annotations.
        boxes: how boxes are counted; default: told from each whole file, and said.
        blind: judge the model beside itself without the instruction's words.
        most: screenshots at most, the first ones.
        resamples: of the bootstrap intervals.
        precision: of the weights while they compute.
    """
    from core_runtime.identity import identity, model_identity
    from gui_grounding.items.reading import read_items
    from gui_grounding.metrics import calibration
    from gui_grounding.predictors import by_screenshot
    from gui_grounding.reports.evaluation import write_evaluation

    items_read = read_items(annotations, images=images, boxes=boxes)
    where = resolve_device(device)
    made_from: dict[str, Any] = {"model": None, "ask": plain(ask.__dict__), "options": [blind, precision]}
    if model is not None:
        load(model, where, precision)
        made_from["model"] = model_identity(Path(model))
    groups = list(by_screenshot(items_read.items).items())[:most]
    jobs = []
    for number, (image, items) in enumerate(groups):
        questions = [[item.name, item.instruction] for item in items]
        targets = [[[target.shape, target.points] for target in item.targets] for item in items]
        key = {"input": identity(Path(image)), "questions": questions, "targets": targets, **made_from}
        source = (image, items, model, where, precision, ask, blind)
        name = f"{number:05}_{Path(image).stem}"
        jobs.append(Job(name, source, out / "answers" / f"{name}.json", key=key, inputs=[Path(image)]))
    attempts = bulk(answer_item, jobs, run, log=out / "log.jsonl", description="Judging")
    rows = []
    failed_items = 0
    for job, attempt in zip(jobs, attempts, strict=True):
        if not attempt.ok:
            failed_items += len(job.source[1])
            continue
        described = {item.name: describe(item) for item in job.source[1]}
        for row in json.loads(job.output.read_text(encoding="utf-8")):
            # as the annotations say now: of an item's group or platform no answer depends
            rows.append(described[row["id"]] | row)
    table = tabulate(rows, resamples=resamples, seed=seed)
    judged = [row for row in rows if row["predictor"] == "model"]
    values = {
        "account": items_read.account(),
        "notes": list(items_read.notes),
        "conventions": dict(items_read.conventions),
        "left_out": dict(items_read.left_out),
        "screenshots": len(groups),
        "failed": [attempt.name for attempt in attempts if not attempt.ok],
        "failed_items": failed_items,
        "model": model,
        "asked": plain(ask.__dict__),
        "calibration": calibration([row["probability"] for row in judged], [row["hit@1"] for row in judged]),
        **provenance(model, where, precision),
    }
    evaluation = Evaluation(table, values, out, attempts)
    write_evaluation(out, evaluation, rows)
    return evaluation


def answer_item(job: Job) -> dict[str, Any]:
    """Writes the answers to all items of one screenshot, judged."""
    from core_runtime.folders import write_text
    from gui_grounding.metrics import judge
    from gui_grounding.predictors import Centre, Network, Predictor
    from gui_grounding.screens.pictures import open_screenshot

    image, items, model, device, precision, ask, blind = job.source
    screenshot = open_screenshot(Path(image))
    predictors: list[Predictor] = [Centre()]
    if model is not None:
        grounder = load(model, device, precision)
        asking = ask.asking()
        if blind:
            predictors.append(Network(grounder, asking, blind=True))
        predictors.append(Network(grounder, asking))
    rows = []
    for predictor in predictors:
        answers = predictor.answer(screenshot.image, items)
        for item, answer in zip(items, answers, strict=True):
            judged = judge(item, answer.points, abstains=answer.abstains, scores=answer.scores)
            rows.append(
                {
                    "predictor": predictor.name,
                    "id": item.name,
                    "image_size": list(screenshot.size),
                    "resized": answer.resized,
                    "points": [list(point) for point in answer.points],
                    "confidence": answer.confidence,
                    "probability": answer.probability,
                    "abstains": answer.abstains,
                    **judged.values(),
                }
            )
    write_text(job.output, json.dumps(plain(rows), ensure_ascii=False))
    return {"items": len(items)}


def describe(item: Item) -> dict[str, Any]:
    """What the annotations say of an item."""
    return {
        "image": str(item.image),
        "instruction": item.instruction,
        "group": item.group,
        "platform": item.platform,
        "type": item.ui_type,
        "size": item.bucket,
        "application": item.application,
        "targets": [{"shape": each.shape, "points": [list(point) for point in each.points]} for each in item.targets],
    }


def tabulate(rows: Sequence[Mapping[str, Any]], *, resamples: int, seed: int) -> Table:
    """Measures of every predictor and slice with 95 % intervals over screenshots."""
    import numpy as np

    from core_runtime.statistics import intervals
    from gui_grounding.metrics import MEASURES

    table: dict[str, dict[str, dict[str, Any]]] = {}
    for predictor in dict.fromkeys(row["predictor"] for row in rows):
        own = [row for row in rows if row["predictor"] == predictor]
        table[predictor] = {}
        for name, of_slice in slices(own).items():
            values = {}
            for measure in MEASURES:
                numbers = [np.nan if row[measure] is None else row[measure] for row in of_slice]
                values[measure] = np.array(numbers, np.float64)
            images = [row["image"] for row in of_slice]
            shares = {m: v for m, v in values.items() if m != "distance"}

            def means_of(indices: Any, shares: Any = shares) -> dict[str, float]:
                return {measure: _mean(numbers[indices]) for measure, numbers in shares.items()}

            spans = intervals(means_of, images, resamples=resamples, seed=seed)
            entry: dict[str, Any] = {"items": len(of_slice), "screenshots": len(set(images))}
            for measure, span in spans.items():
                entry[measure] = {"value": _mean(values[measure]), "low": span.low, "high": span.high}
            known = values["distance"][~np.isnan(values["distance"])]
            entry["median distance"] = float(np.median(known)) if len(known) else float("nan")
            table[predictor][name] = entry
    return table


def slices(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """All rows, and those of each group, platform, type, group × type, size and application; one with a single part is left out."""
    parts: dict[str, list[Mapping[str, Any]]] = {"all": list(rows)}
    for by in BY:
        rows_of: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            keys = [row[name] for name in by.split(" × ")]
            if all(keys):
                rows_of.setdefault(f"{by}: {' × '.join(keys)}", []).append(row)
        if len(rows_of) > 1:
            parts |= dict(sorted(rows_of.items(), key=_order))
    return parts


def _order(part: tuple[str, Any]) -> tuple[int, str]:
    """By name, sizes from the smallest."""
    by, _, name = part[0].partition(": ")
    return (BUCKET_NAMES.index(name) if by == "size" else 0), name


def provenance(model: str | None, device: str, precision: str) -> dict[str, Any]:
    """What scores depend on beside the items: message, pixel limits, precision, versions."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "pillow", "attention-suite-gui-grounding")
    facts: dict[str, Any] = {"versions": {name: version(name) for name in packages}, "device": device}
    if model is None:
        return facts
    grounder = load(model, device, precision)
    prepared = grounder.prepared
    return facts | {
        "precision": str(grounder.dtype).removeprefix("torch."),
        "system_message": prepared.system_message,
        "min_pixels": prepared.min_pixels,
        "max_pixels": prepared.max_pixels,
        "regions_ranked_by": prepared.scoring,
        "calibrated": prepared.slope is not None,
    }


def _mean(numbers: Any) -> float:
    """The mean of those that are known; NaN of none."""
    known = numbers[~(numbers != numbers)]
    if len(known):
        return float(known.mean())
    return float("nan")
