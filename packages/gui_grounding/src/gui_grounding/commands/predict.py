"""``gui-grounding predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.cli import plain
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.models import no_model
from core_runtime.options import Above, AtLeast, Between, BulkOptions, Device, Model, Out, Pair, options, resolve_device
from gui_grounding.results import how_sure

if TYPE_CHECKING:
    from gui_grounding.model.inference import Asking


@options
class ViewOptions:
    """What a screenshot shows of the screen.

    Attributes:
        pixel_ratio: pixels of the screenshot per logical (CSS) pixel; 2 on most Retina screens.
        crop: X,Y pixels that were cut off the capture on the left and above.
        scroll: X,Y CSS pixels that the page is scrolled.
        origin: X,Y logical position of the capture on the desktop; of a monitor to the left --origin=-1920,0.
    """

    pixel_ratio: Annotated[float, Above(0)] = 1.0
    crop: Pair = (0.0, 0.0)
    scroll: Pair = (0.0, 0.0)
    origin: Pair = (0.0, 0.0)


@options
class AskOptions:
    """How a screenshot is asked.

    Attributes:
        action: click, or drag with two ends.
        top: regions that are listed, at most.
        threshold: cells above this share of the largest attention belong to a region.
        abstain: say "not here" where the probability of a hit (of an uncalibrated model: the confidence) is below this.
        zoom: look again, enlarged, around the best regions.
        max_pixels: of the screenshot as the model sees it, at most; default: the model's own limit.
    """

    action: Literal["click", "drag"] = "click"
    top: Annotated[int, AtLeast(1)] = 3
    threshold: Annotated[float, Between(0, 0.999)] = 0.3
    abstain: Annotated[float, Between(0, 1)] = 0.0
    zoom: bool = False
    max_pixels: Annotated[int | None, AtLeast(784)] = None

    def asking(self) -> "Asking":
        """The same for a `Grounder`."""
        from gui_grounding.model.inference import Asking

        return Asking(self.action, self.top, self.threshold, self.abstain, self.zoom, self.max_pixels)


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """Where instructions point.

    Attributes:
        out: the folder; a folder per screenshot with ``prediction.json`` and an overlay per instruction.
        predictions: of each screenshot that succeeded: its name, its groundings (`gui_grounding.results.Grounding`) as plain values.
        attempts: what became of each screenshot.
    """

    out: Path
    predictions: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"predictions": list(self.predictions), "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        for prediction in self.predictions:
            for note in prediction["notes"]:
                yield f"Note: {prediction['screenshot']}: {note}"
            for grounding in prediction["groundings"]:
                yield f"{prediction['screenshot']}: {grounding['instruction']}"
                sure = how_sure(grounding)
                if grounding["abstains"]:
                    yield f"  not here ({sure})"
                    continue
                ends = " → ".join(
                    f"({target['image'][0]:.1f}, {target['image'][1]:.1f})" for target in grounding["targets"]
                )
                yield f"  {grounding['action']} {ends} px of the screenshot, {sure}"
                if grounding["written"]:
                    yield f"  {grounding['written']}"
        yield f"Overlays and coordinates in all spaces: {self.out}"


def predict(
    screenshots: Path,
    /,
    *instructions: str,
    model: Model = None,
    out: Out = Path("gui-predictions"),
    view: ViewOptions = ViewOptions(),
    ask: AskOptions = AskOptions(),
    write: str | None = None,
    device: Device = "auto",
    precision: Literal["as-saved", "float32", "bfloat16"] = "as-saved",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Says where on a screenshot to click. Several instructions about one screenshot share its encoding; a rerun goes on.

    Example: gui-grounding predict screen.png "open the settings" --model run/model

    Args:
        screenshots: a screenshot, a folder of them, or JSON lines with image and instruction (or instructions).
        instructions: what is to be clicked; of JSON lines none.
        write: also spell the action for a tool: pyautogui, playwright, ui-tars, ui-tars-absolute, os-atlas, seeclick, anthropic, openai.
        precision: of the weights while they compute.
    """
    from core_runtime.folders import name_in, output_names
    from core_runtime.identity import identity, model_identity
    from gui_grounding.adapters import format_named
    from gui_grounding.model.folder import ADVICE
    from gui_grounding.screens.pictures import open_screenshot

    questions = find_questions(screenshots, instructions)
    if len(questions) == 1:
        open_screenshot(questions[0][0])  # a mistake in a single file is the user's first line
    if model is None:
        raise no_model(ADVICE)
    if write is not None:
        format_named(write)
    where = resolve_device(device)
    load(model, where, precision)
    if not questions[0][1]:
        raise UserError(
            "no instruction was given",
            'write it behind the screenshot: gui-grounding predict screen.png "open the settings"',
        )
    made_from = {
        "model": model_identity(Path(model)),
        "view": plain(view.__dict__),
        "ask": plain(ask.__dict__),
        "options": [write, precision],
    }
    names = [name_in(screenshots, image) for image, _ in questions]
    items = []
    for (image, asked), name, output in zip(questions, names, output_names(names, taken=["log.jsonl"]), strict=True):
        source = (image, asked, model, where, precision, view, ask, write)
        key = {"input": identity(image) if image.is_file() else None, "instructions": list(asked), **made_from}
        items.append(Item(name, source, out / output, key=key, inputs=[image]))
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Grounding")
    return Predictions(out, read_results(items, attempts, "prediction.json"), attempts)


def find_questions(path: Path, instructions: Sequence[str]) -> list[tuple[Path, tuple[str, ...]]]:
    """Each screenshot with its instructions.

    Raises:
        UserError: no screenshots; JSON lines that do not say image and instruction.
    """
    from gui_grounding.items.reading import image_folder, read_records
    from gui_grounding.screens.formats import ANNOTATIONS, find_screenshots

    if path.is_file() and path.suffix.lower() in ANNOTATIONS:
        if instructions:
            raise UserError(f"{path} brings its own instructions", "leave out those of the command line")
        by_image: dict[Path, list[str]] = {}
        for number, record in enumerate(read_records(path), 1):
            image, asked = record.get("image"), record.get("instructions", record.get("instruction"))
            folder = path.parent
            if image is None:  # a benchmark's annotations
                image, folder = record.get("img_filename") or record.get("image_path"), image_folder(path, None)
            if isinstance(asked, str):
                asked = [asked]
            if not isinstance(image, str) or not isinstance(asked, list) or not all(isinstance(a, str) for a in asked):
                raise UserError(
                    f"{path}, item {number}: expected image and instruction",
                    '{"image": "screen.png", "instruction": "open"}',
                )
            by_image.setdefault(folder / image, []).extend(asked)
        if not by_image:
            raise UserError(f"{path} holds no questions")
        return [(image, tuple(asked)) for image, asked in by_image.items()]
    for instruction in instructions:
        if not instruction.strip():
            raise UserError("an instruction is empty", "say what is to be clicked")
    return [(file, tuple(instructions)) for file in find_screenshots(path)]


@keep_latest
def load(model: str, device: str, precision: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    import torch

    from gui_grounding.model.folder import load_model
    from gui_grounding.model.inference import Grounder

    dtype = None
    if precision != "as-saved":
        dtype = getattr(torch, precision)
    return Grounder(load_model(model, device, dtype))


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the predictions of one screenshot: all of its files or none."""
    from core_runtime.folders import writing
    from gui_grounding.adapters import FORMATS
    from gui_grounding.coordinates import View
    from gui_grounding.reports.overlay import draw_grounding
    from gui_grounding.screens.pictures import open_screenshot

    image, instructions, model, device, precision, view, ask, write = item.source
    screenshot = open_screenshot(image)
    grounder = load(model, device, precision)
    page_view = View(*screenshot.size, view.pixel_ratio, view.crop, view.scroll, view.origin)
    groundings = grounder.ground(screenshot.image, instructions, ask.asking(), view=page_view)
    written = []
    with writing(item.output) as part:
        part.mkdir()
        for number, grounding in enumerate(groundings, 1):
            draw_grounding(screenshot.image, grounding).save(part / f"overlay_{number:03}.png")
            spelled = None
            if write is not None and not grounding.abstains:
                spelled = FORMATS[write].write(grounding.positions)
            written.append(grounding.facts() | {"written": spelled})
        content = {"screenshot": item.name, "notes": list(screenshot.notes), "groundings": written}
        (part / "prediction.json").write_text(
            json.dumps(plain(content), ensure_ascii=False, indent=1), encoding="utf-8"
        )
    return {"instructions": len(instructions)}
