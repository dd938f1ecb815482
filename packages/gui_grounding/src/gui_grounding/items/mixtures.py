"""Training sets in the published format: conversations about screenshots, mixed by a YAML that says how much of each."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from gui_grounding.items.reading import image_folder, read_items, read_records
from gui_grounding.model.answers import reformat_coordinates
from gui_grounding.model.tokens import ANSWERS

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Question:
    """One instruction with its answer.

    Attributes:
        instruction: what the user says.
        answer: what the model says, with pointer tokens.
        boxes: of each pointer token its target boxes as shares of the screenshot; several where several elements are right.
    """

    instruction: str
    answer: str
    boxes: Sequence[Sequence[Box]]


@dataclass(frozen=True)
class Example:
    """One screenshot and everything that is asked about it."""

    image: Path
    questions: Sequence[Question]


@dataclass(frozen=True)
class TrainingSet:
    """Screenshots to learn from, and the account of what was read.

    Attributes:
        examples: one per screenshot.
        account: how many questions, what was left out.
        notes: how the files were read.
    """

    examples: Sequence[Example]
    account: str
    notes: Sequence[str] = ()

    @property
    def questions(self) -> int:
        return sum(len(example.questions) for example in self.examples)


def read_training(path: Path, *, images: Path | None = None, seed: int = 0) -> TrainingSet:
    """Training data of any kind: a mixture (YAML), conversations (JSON, JSON lines), or the items of a benchmark.

    Raises:
        UserError: unreadable or malformed files; nothing that can be learned from.
    """
    from gui_grounding.screens.formats import annotation_kind

    if not path.exists():
        raise UserError(f"no such file: {path}", "give a mixture (YAML), conversations or annotations (JSON)")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_mixture(path, seed)
    if path.is_dir() and (path / "training.json").is_file():
        path = path / "training.json"
    if path.is_file() and annotation_kind(path) == "training":
        return _read_conversations(path, image_folder(path, images))
    return _from_items(path, images)


def sample(examples: Sequence[Any], strategy: str, seed: int, where: str) -> list[Any]:
    """What a sampling strategy takes: ``all``, ``first:N``, ``end:N``, ``random:N``, N a number or a share such as ``30%``.

    Raises:
        UserError: another strategy.
    """
    kind, _, amount = strategy.partition(":")
    if kind == "all" and not amount:
        return list(examples)
    share = amount.endswith("%")
    number = amount.removesuffix("%")
    if kind not in ("first", "end", "random") or not number.isdigit() or not int(number):
        raise UserError(
            f"{where}: sampling_strategy is {strategy!r}",
            "expected all, first:N, end:N or random:N; N may be a share, as in 30%",
        )
    # of a share as many as do not make more than it, but one at least
    count = max(1, len(examples) * int(number) // 100) if share else int(number)
    count = min(count, len(examples))
    if kind == "first":
        return list(examples[:count])
    if kind == "end":
        return list(examples[len(examples) - count :])
    return random.Random(seed).sample(list(examples), count)


def _read_mixture(path: Path, seed: int) -> TrainingSet:
    """Several sets in one YAML: ``datasets: [{json_path, images_folder, sampling_strategy}]``."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    sets = None
    if isinstance(content, Mapping):
        sets = content.get("datasets")
    if not isinstance(sets, list) or not sets:
        raise UserError(
            f"{path} has no list 'datasets'", "each entry has json_path, images_folder and sampling_strategy"
        )
    examples: list[Example] = []
    accounts, notes = [], []
    for number, entry in enumerate(sets):
        where = f"{path}, datasets[{number}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("json_path"), str):
            raise UserError(f"{where} has no json_path")
        file = path.parent / entry["json_path"]
        folder = None
        if entry.get("images_folder"):
            folder = path.parent / entry["images_folder"]
        part = read_training(file, images=folder, seed=seed)
        examples_taken = sample(part.examples, str(entry.get("sampling_strategy", "all")), seed, where)
        examples += examples_taken
        accounts.append(f"{file.name}: {part.account}, {len(examples_taken)} screenshots taken")
        notes += part.notes
    return TrainingSet(examples, "; ".join(accounts), notes)


def _read_conversations(file: Path, folder: Path) -> TrainingSet:
    """The published format: questions and answers in turns about one screenshot."""
    examples = []
    left_out = 0
    for number, record in enumerate(read_records(file)):
        where = f"{file}, item {number}"
        image = record.get("image")
        if isinstance(image, list) and len(image) == 1:
            image = image[0]
        if not isinstance(image, str):
            raise UserError(f"{where}: image is {str(image)[:60]}, expected the name of one file")
        questions = _questions(record.get("conversations"), where)
        if not (folder / image).is_file():
            left_out += 1
            continue
        if questions:
            examples.append(Example(folder / image, questions))
    account = f"{sum(len(example.questions) for example in examples)} questions on {len(examples)} screenshots"
    if left_out:
        account += f", {left_out} left out whose screenshot is missing in {folder}"
    if not examples:
        raise UserError(f"{file}: nothing can be learned from it ({account})")
    return TrainingSet(examples, account)


def _questions(turns: Any, where: str) -> list[Question]:
    if not isinstance(turns, list):
        raise UserError(f"{where} has no list 'conversations'")
    questions = []
    asked = ""
    for turn in turns:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            raise UserError(f"{where}: a turn of its conversation has no text 'value'")
        if turn.get("from") in ("human", "user"):
            asked = turn["value"].replace("<image>", "").strip()
            continue
        if turn.get("from") == "system":
            continue
        answer, points = reformat_coordinates(turn["value"])
        boxes = _boxes_of(turn.get("bbox_gt"), len(points), where)
        if points and asked:
            questions.append(Question(asked, answer, boxes))
    return questions


def _boxes_of(value: Any, pointers: int, where: str) -> list[list[Box]]:
    """The boxes of each pointer: one box for one pointer, a list of boxes for several."""
    if not pointers:
        return []
    boxes = value
    if isinstance(value, list) and value and not isinstance(value[0], list):
        boxes = [value]
    numbers = []
    if isinstance(boxes, list):
        numbers = boxes
    if len(numbers) != pointers:
        raise UserError(f"{where}: {pointers} positions in the answer and {len(numbers)} boxes in bbox_gt")
    boxes_of_turns: list[list[Box]] = []
    for box in numbers:
        fits = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, (int, float)) for edge in box)
        if not fits or not (-0.01 <= box[0] < box[2] <= 1.01 and -0.01 <= box[1] < box[3] <= 1.01):
            raise UserError(f"{where}: bbox_gt holds {box}, expected shares x1 < x2, y1 < y2 of the screenshot")
        boxes_of_turns.append([(box[0], box[1], box[2], box[3])])
    return boxes_of_turns


def _from_items(path: Path, images: Path | None) -> TrainingSet:
    """The items of a benchmark, a question each; refusals teach nothing."""
    annotations = read_items(path, images=images)
    by_image: dict[Path, list[Question]] = {}
    for item in annotations.items:
        if item.refuses:
            continue
        boxes = [target.box for target in item.targets]
        by_image.setdefault(item.image, []).append(Question(item.instruction, ANSWERS["click"], [boxes]))
    examples = [Example(image, questions) for image, questions in sorted(by_image.items())]
    if not examples:
        raise UserError(f"{path}: nothing can be learned from it ({annotations.account()})")
    return TrainingSet(examples, annotations.account(), annotations.notes)
