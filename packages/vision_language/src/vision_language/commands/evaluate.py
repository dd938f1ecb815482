"""``vision-language evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Between, Device, Model, Out, Overwrite, Seed, options, resolve_device
from vision_language.benchmarks.judged import Judged
from vision_language.benchmarks.pope import Parser
from vision_language.items.item import Boxes

Kind = Literal["grounding", "pope", "sugarcrepe", "retrieval", "chair", "mmvp", "genecis"]
Table = dict[str, dict[str, dict[str, Any]]]


@options
class Reading:
    """How files are read and answers understood.

    Attributes:
        images: folder of the pictures, where it is not the file's.
        boxes: how boxes are counted, where the file does not say so; never guessed.
        answers: of pope and sugarcrepe: JSON lines of a model's responses (question_id, response) or scores (id, caption, negative);
            of chair its captions (image, caption).
        parser: of pope: strict counts answers that say neither yes nor no apart; published takes them for yes.
        threshold: of grounding: probability above which a pixel is meant.
    """

    images: Path | None = None
    boxes: Boxes | None = None
    answers: Path | None = None
    parser: Parser = "strict"
    threshold: Annotated[float, Between(0, 1)] = 0.5


@dataclass(frozen=True)
class Evaluation(Outcome):
    """Measures with intervals, beside blind baselines.

    Attributes:
        kind: the benchmark.
        table: predictor → measure → value, low, high, groups.
        values: what was read and left out, conventions, settings, versions.
        out: the folder with rows.jsonl, metrics.json and report.html.
        missing: items that could not be judged, counted.
    """

    kind: str
    table: Table
    values: Mapping[str, Any]
    out: Path
    missing: int

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.missing else 0

    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.values, "measures": self.table, "not judged": self.missing, "out": self.out}

    def lines(self) -> Iterable[str]:
        yield str(self.values["account"])
        for predictor, measures in self.table.items():
            for name, entry in measures.items():
                yield f"{predictor:18} {name:14} {entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
        if self.missing:
            yield f"Not judged: {self.missing} items ({self.values['why']}); they are in no figure"
        yield f"Rows and tables: {self.out / 'report.html'}"


def evaluate(
    kind: Kind,
    path: Path,
    /,
    *,
    model: Model = None,
    reading: Reading = Reading(),
    resamples: Annotated[int, AtLeast(10)] = 1000,
    seed: Seed = 0,
    out: Out = Path("vision-language-evaluation"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model, or a model's answers in a file, on a benchmark, always beside blind baselines.

    Example: vision-language evaluate pope coco_pope_random.json --answers answers.jsonl

    Args:
        kind: grounding (IoU, pointing game), pope (yes or no), sugarcrepe (captions), retrieval (nearest neighbours under an instruction),
            chair (objects that captions invent), mmvp (pairs of pictures), genecis (a target in a gallery).
        path: the benchmark's file or folder; of retrieval a CSV (path, instruction, label).
        resamples: of the bootstrap intervals, by picture where several items share one.
    """
    from core_runtime.folders import write_text

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    judged = _JUDGES[kind](path, model, reading, seed, resolve_device(device), out)
    groups = [row["group"] for row in judged.rows]
    table: Table = {}
    for predictor, rows in judged.by_predictor().items():
        table[predictor] = tabulate(rows, judged.measures, resamples=resamples, seed=seed)
    values = {
        "account": judged.account,
        "why": judged.why,
        "settings": judged.settings | {"resamples": resamples, "seed": seed},
        "model": model,
        "pictures": len(set(groups)),
        "versions": _versions(),
    }
    evaluation = Evaluation(kind, table, values, out, judged.missing)
    write_text(out / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in judged.rows))
    from core_runtime.cli import plain

    _report(evaluation).write(out / "report.html")
    write_text(out / "metrics.json", json.dumps(plain(evaluation.facts()), indent=1) + "\n")
    return evaluation


def tabulate(
    rows: Sequence[Mapping[str, Any]], measures: Sequence[str], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Each measure with its interval by group. Of yes-or-no answers all of POPE's measures; of captions CHAIR_i, of masks oIoU."""
    import numpy as np

    from core_runtime.statistics import intervals
    from vision_language.metrics import overall_iou, precision_at, yes_no_scores

    def measure(indices: Any) -> dict[str, float]:
        resampled = [rows[i] for i in indices]
        values: dict[str, float] = {}
        if "said" in rows[0]:
            values |= yes_no_scores([row["said"] for row in resampled], [row["label"] for row in resampled])
        if "mentions" in rows[0]:
            mentions = sum(row["mentions"] for row in resampled)
            invented = sum(row["hallucinated"] for row in resampled)
            values["CHAIR_i"] = invented / mentions if mentions else float("nan")
        for name in measures:
            numbers = np.array([row[name] for row in resampled], float)
            known = numbers[~np.isnan(numbers)]
            values[name] = float(known.mean()) if len(known) else float("nan")
        if "both" in rows[0]:
            ious = [row["mIoU"] for row in resampled]
            values["oIoU"] = overall_iou([(row["both"], row["either"]) for row in resampled])
            values |= {f"Pr@{level}": precision_at(ious, level) for level in (0.5, 0.7, 0.9)}
        return values

    estimates = measure(range(len(rows)))
    spans = intervals(measure, [row["group"] for row in rows], resamples=resamples, seed=seed)
    table = {}
    for name, value in estimates.items():
        table[name] = {"value": value, "low": spans[name].low, "high": spans[name].high, "groups": spans[name].groups}
    return table


def _judge_grounding(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    """The model, the same with another picture's sentence, the whole picture, and a box in its centre."""
    import random

    import numpy as np

    from core_runtime.pictures import open_picture
    from core_runtime.terminal import track
    from vision_language.items.grounding import read_items
    from vision_language.metrics import overlap, points_in
    from vision_language.model.folder import load_grounder
    from vision_language.model.masks import mask_of, peak_of

    questions = read_items(path, images=reading.images, boxes=reading.boxes)
    grounder = None if model is None else load_grounder(model, device)
    others = [item.sentence for item in questions.items]
    random.Random(seed).shuffle(others)
    rows: list[dict[str, Any]] = []

    def add(predictor: str, item: Any, mask: Any, point: tuple[float, float], truth: Any) -> None:
        both, either = overlap(mask, truth)
        rows.append(
            {
                "predictor": predictor,
                "id": item.name,
                "group": item.group,
                "sentence": item.sentence,
                "both": both,
                "either": either,
                "mIoU": 1.0 if either == 0 else both / either,
                "pointing": float(points_in(point, truth)) if truth.any() else float("nan"),
            }
        )

    for item, other in track(list(zip(questions.items, others, strict=True)), "Judging"):
        image = open_picture(item.image).image
        width, height = image.size
        truth = item.mask_in(width, height)
        centre = np.zeros((height, width), bool)
        centre[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        add("centre box", item, centre, (width / 2, height / 2), truth)
        add("whole picture", item, np.ones((height, width), bool), (width / 2, height / 2), truth)
        if grounder is not None:
            maps = grounder.heat(image, [item.sentence, other]).float().cpu().numpy()
            for predictor, heat in (("shuffled sentences", maps[1]), ("model", maps[0])):
                mask = mask_of(heat, reading.threshold)
                add(predictor, item, mask, peak_of(heat, mask), truth)
    settings = {
        "threshold": reading.threshold,
        "boxes": sorted({item.convention for item in questions.items if item.convention}),
        "resized to": None if grounder is None else grounder.prepared.side,
        "encoder": None if grounder is None else grounder.encoder.name,
    }
    return Judged(
        rows, ("mIoU", "pointing"), questions.account(), questions.left_out, "their pictures are not there", settings
    )


def _judge_pope(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    """The answers of a file, beside always yes, always no, and each object's more frequent answer."""
    from vision_language.benchmarks.pope import judge, read_answers, read_pope

    if model is not None:
        raise UserError(
            "evaluate pope judges answers in a file", "'vision-language answer' writes them; give --answers"
        )
    questions = read_pope(path)
    answers: dict[str, dict[str, str]] = {
        "always yes": {question.name: "yes" for question in questions.questions},
        "always no": {question.name: "no" for question in questions.questions},
        "text only": _text_only(questions.questions),
    }
    if reading.answers is not None:
        answers["answers"] = read_answers(reading.answers)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for predictor, given in answers.items():
        judged, unanswered = judge(questions.questions, given, reading.parser)
        missing += unanswered
        rows += [{"predictor": predictor, "group": row["image"], **row} for row in judged]
    settings = {"edition": questions.edition, "parser": reading.parser}
    return Judged(rows, (), questions.account(), len(missing), "they have no answer", settings)


def _text_only(questions: Sequence[Any]) -> dict[str, str]:
    """Each question answered as the other pictures' questions of the same text are: what the words alone give away."""
    counts: dict[str, dict[str, int]] = {}
    for question in questions:
        known = counts.setdefault(question.text, {"yes": 0, "no": 0})
        known[question.label] += 1
    answers = {}
    for question in questions:
        known = dict(counts[question.text])
        known[question.label] -= 1  # its own answer is not known
        answers[question.name] = "yes" if known["yes"] > known["no"] else "no"
    return answers


def _judge_sugarcrepe(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    """Scores of a file or of a FocalLens-CLIP, beside two baselines that never see the picture."""
    from collections import Counter

    from vision_language.benchmarks.sugarcrepe import commoner_wins, read_sugarcrepe, shorter_wins
    from vision_language.items.lines import read_entries

    pairs = read_sugarcrepe(path)
    counts: Counter[str] = Counter()
    for pair in pairs:
        counts.update(pair.caption.lower().split())
        counts.update(pair.negative.lower().split())
    rows: list[dict[str, Any]] = []
    missing = 0
    scores: dict[str, tuple[float, float]] = {}
    if reading.answers is not None:
        for where, entry in read_entries(reading.answers, what="lines with id, caption and negative scores"):
            try:
                scores[str(entry["id"])] = float(entry["caption"]), float(entry["negative"])
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{where} has no id, caption and negative as numbers") from None
    if model is not None:
        scores = _caption_scores(pairs, model, reading, device)
    for pair in pairs:
        results = {"shorter caption": shorter_wins(pair), "commoner words": commoner_wins(pair, counts)}
        if pair.name in scores:
            true, wrong = scores[pair.name]
            if true != true or wrong != wrong:
                raise UserError(f"{pair.name}: a score is NaN", "its model is damaged")
            results["answers" if model is None else "model"] = 0.5 if true == wrong else float(true > wrong)
        elif reading.answers is not None or model is not None:
            missing += 1
        for predictor, hit in results.items():
            row = {"predictor": predictor, "id": pair.name, "group": pair.image, "accuracy": hit}
            rows.append(row | {f"accuracy {pair.kind}": hit})
    kinds = sorted({pair.kind for pair in pairs})
    for row in rows:
        for kind in kinds:
            row.setdefault(f"accuracy {kind}", float("nan"))
    account = f"{len(pairs):,} pairs of captions of {len(kinds)} kinds about {len({p.image for p in pairs}):,} pictures"
    measures = ("accuracy", *(f"accuracy {kind}" for kind in kinds))
    return Judged(rows, measures, account, missing, "no score, or no picture", {})


def _caption_scores(pairs: Sequence[Any], model: str, reading: Reading, device: str) -> dict[str, tuple[float, float]]:
    """Cosines of a FocalLens-CLIP without an instruction."""
    from core_runtime.pictures import open_picture
    from vision_language.model.folder import load_embedder

    if reading.images is None:
        raise UserError("a model needs the pictures", "--images names the folder of COCO's val2017")
    embedder = load_embedder(model, device)
    scores = {}
    for pair in pairs:
        file = reading.images / pair.image
        if not file.is_file():
            continue
        image = embedder.embed([open_picture(file).image])[0]
        true, wrong = embedder.embed_texts([pair.caption, pair.negative]).cpu().numpy() @ image
        scores[pair.name] = float(true), float(wrong)
    return scores


def _judge_retrieval(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    """Nearest neighbours among the pictures of one instruction, under it and under none, and chance."""
    import numpy as np

    from core_runtime.pictures import open_picture
    from vision_language.items.triplets import read_triplets
    from vision_language.metrics import average_precision, scaled_average_precision
    from vision_language.model.folder import load_embedder

    queries = read_triplets(path, images=reading.images)
    embedder = load_embedder(model, device)
    by_instruction: dict[str, list[Any]] = {}
    for triplet in queries.triplets:
        by_instruction.setdefault(triplet.instruction, []).append(triplet)
    rows: list[dict[str, Any]] = []
    for instruction, triplets in by_instruction.items():
        images = [open_picture(triplet.image).image for triplet in triplets]
        labels = np.array([triplet.answer for triplet in triplets])
        for predictor, words in (("no instruction", ""), ("model", instruction)):
            vectors = embedder.embed(images, words)
            similar = vectors @ vectors.T
            np.fill_diagonal(similar, -np.inf)
            for place, triplet in enumerate(triplets):
                order = np.argsort(-similar[place], kind="stable")[:-1]
                relevant = labels[order] == triplet.answer
                rows.append(
                    {
                        "predictor": predictor,
                        "id": f"{instruction} {triplet.image.name}",
                        "group": str(triplet.image),
                        "R@1": float(relevant[0]),
                        "mAP": average_precision(relevant),
                        "scaled mAP": scaled_average_precision(relevant),
                        f"R@1 {instruction}": float(relevant[0]),
                    }
                )
    names = [f"R@1 {instruction}" for instruction in by_instruction]
    for row in rows:
        for name in names:
            row.setdefault(name, float("nan"))
    return Judged(
        rows,
        ("R@1", "mAP", "scaled mAP", *names),
        queries.account(),
        queries.missing,
        "their pictures are not there",
        {},
    )


def _judge_chair(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    from vision_language.benchmarks.judging import judge_chair

    if model is not None or reading.answers is None:
        raise UserError("evaluate chair judges captions in a file", "--answers names lines with image and caption")
    return judge_chair(path, reading.answers)


def _judge_mmvp(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    from vision_language.benchmarks.judging import judge_mmvp
    from vision_language.model.folder import load_embedder

    return judge_mmvp(path, load_embedder(model, device), reading.images, seed)


def _judge_genecis(path: Path, model: str | None, reading: Reading, seed: int, device: str, out: Path) -> Judged:
    from vision_language.benchmarks.judging import judge_genecis
    from vision_language.model.folder import load_embedder

    return judge_genecis(path, load_embedder(model, device), reading.images, seed)


_JUDGES = {
    "chair": _judge_chair,
    "mmvp": _judge_mmvp,
    "genecis": _judge_genecis,
    "grounding": _judge_grounding,
    "pope": _judge_pope,
    "sugarcrepe": _judge_sugarcrepe,
    "retrieval": _judge_retrieval,
}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "timm", "attention-suite-vision-language")}


def _report(evaluation: Evaluation) -> Any:
    from core_runtime.report import Report

    report = Report(f"vision-language: {evaluation.kind}", lead=str(evaluation.values["account"]))
    if evaluation.missing:
        report.warning(f"{evaluation.missing} items are not judged: {evaluation.values['why']}")
    for predictor, measures in evaluation.table.items():
        rows = []
        for name, entry in measures.items():
            rows.append([name, f"{entry['value']:.3f}", f"{entry['low']:.3f} to {entry['high']:.3f}", entry["groups"]])
        report.heading(predictor).table(["measure", "value", "95 % interval", "pictures"], rows)
    report.heading("Settings").facts([*evaluation.values["settings"].items(), *evaluation.values["versions"].items()])
    return report
