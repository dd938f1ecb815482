"""``gaze predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.cli import plain
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.models import no_model
from core_runtime.options import Above, AtLeast, BulkOptions, Device, IntegerPair, Model, Out, Seed, resolve_device


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """Predicted paths of each picture.

    Attributes:
        out: the folder; a folder per picture with ``prediction.json``, ``path.png``, ``steps.gif`` and ``objects.csv``.
        predictions: `gaze.results.Prediction` of each that succeeded, as plain values.
        attempts: what became of each picture.
    """

    out: Path
    predictions: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"predictions": list(self.predictions), "failed": self.failed, "out": self.out}

    def lines(self) -> Iterable[str]:
        for prediction in self.predictions:
            aim = ""
            if prediction["target"]:
                aim = f", searching {prediction['target']}"
            path = " → ".join(str(prediction["objects"][index]) for index in prediction["likeliest"])
            yield f"{prediction['scene']}{aim}: {path}"
            yield from say_cut(prediction)
        yield f"Pictures and tables: {self.out}"


def say_cut(prediction: Mapping[str, Any]) -> Iterable[str]:
    """What is said of paths that the model did not end."""
    cut, count = len(prediction["samples"]) - prediction["samples_stopped"], len(prediction["samples"])
    if not prediction["stopped"]:
        yield f"Note: this path did not stop; it is cut at {prediction['longest']} fixations"
    if cut:
        yield (
            f"Note: {cut} of {count} sampled paths did not stop within {prediction['longest']} fixations: "
            "what is looked at, when and how long comes from cut paths"
        )


def predict(
    pictures: Path,
    /,
    *,
    areas: Path | None = None,
    grid: IntegerPair | None = None,
    crops: Path | None = None,
    target: str | None = None,
    model: Model = None,
    out: Out = Path("gaze-predictions"),
    samples: Annotated[int, AtLeast(1)] = 100,
    beams: Annotated[int, AtLeast(0)] = 0,
    temperature: Annotated[float, Above(0)] = 1.0,
    longest: Annotated[int, AtLeast(0)] = 0,
    target_position: Literal["known", "unknown"] | None = None,
    seed: Seed = 0,
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Predicts where people look, in which order. A rerun goes on with the pictures that are not done.

    Example: gaze predict shelf.png --areas areas.json --target milk --model run/model

    Args:
        pictures: a picture, or a folder of them.
        areas: their objects as boxes or polygons: JSON, a detector's COCO JSON, CSV or a label image.
        grid: ROWS,COLUMNS of equal cells that fill each picture, in place of areas.
        crops: folder of the objects' own pictures, PICTURE/OBJECT.png or OBJECT.png, in place of what is cut out of the picture.
        target: name of the searched object, or its number from 1.
        samples: paths drawn per picture.
        beams: how the path that is drawn is decoded: 0: greedily, the likeliest object at every step; more: the likeliest whole path that a
            search with so many beams finds. Many beams prefer short paths.
        temperature: of the samples; below 1 likelier paths, above 1 more varied ones.
        longest: fixations of the longest path; 0: as long as the model's training paths were.
        target_position: whether the model is told where the target is; default: as it was trained.
    """
    from core_runtime.folders import output_names
    from core_runtime.identity import identity, model_identity
    from gaze.model.folder import ADVICE

    files = find_pictures(pictures)
    if model is None:
        raise no_model(ADVICE)
    if (areas is None) == (grid is None):
        raise UserError("nothing says where the objects are" if areas is None else "--grid and --areas both name the objects",
                        "give --areas FILE or --grid ROWS,COLUMNS")  # fmt: skip
    where = resolve_device(device)
    _load(model, where)
    made_from = {
        "model": model_identity(Path(model)),
        "areas": None if areas is None else identity(areas),
        "crops": None if crops is None else identity(crops),
        "options": [grid, target, samples, beams, temperature, longest, target_position, seed],
    }
    asked = {
        "areas": areas, "grid": grid, "target": target, "model": model, "device": where, "samples": samples, "beams": beams,
        "temperature": temperature, "longest": longest, "target_position": target_position, "seed": seed,
        "crops": crops,
    }  # fmt: skip
    items = [
        Item(name, (file, asked), out / name, key={"input": identity(file), **made_from}, inputs=[file])
        for name, file in zip(output_names([file.name for file in files], ["log.jsonl"]), files, strict=True)
    ]
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Predicting")
    return Predictions(out, read_results(items, attempts, "prediction.json"), attempts)


def find_pictures(path: Path) -> list[Path]:
    """The pictures of a folder, or the one file.

    Raises:
        UserError: there are none.
    """
    from gaze.scenes.scene import PICTURES

    if not path.exists():
        raise UserError(f"no such file: {path}", "give a picture, or a folder of them")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise UserError(f"{path} holds no pictures", f"pictures are {', '.join(PICTURES)}")
    return files


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process."""
    from gaze.model.folder import load_model

    return load_model(model, device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the prediction of one picture: all of its files or none."""
    from dataclasses import replace

    from core_runtime.folders import writing
    from gaze.model.inference import predict_scenes
    from gaze.reports.figures import draw_prediction, draw_steps
    from gaze.scenes.pictures import read_scene

    file, asked = item.source
    network, prepared = _load(asked["model"], asked["device"])
    if asked["target_position"] is not None:
        network = copy(network)  # it shares the weights; the one in the cache stays as it is
        network.config = replace(network.config, target_position=asked["target_position"])
    crop = None
    if prepared.looks:
        crop = network.config.crop
    scene = read_scene(
        file,
        areas=asked["areas"],
        grid=asked["grid"],
        crop=crop,
        crops=asked["crops"],
        table_rows=network.config.table_rows,
    )
    target = find_target(scene, asked["target"])
    prediction = predict_scenes(
        network,
        prepared,
        [scene],
        [target],
        samples=asked["samples"],
        beams=asked["beams"],
        seed=asked["seed"],
        temperature=asked["temperature"],
        longest=asked["longest"] or None,
    )[0]
    with writing(item.output) as part:
        part.mkdir()
        draw_prediction(scene, prediction, target).savefig(part / "path.png", dpi=110)
        (part / "steps.gif").write_bytes(draw_steps(scene, prediction, target))
        (part / "objects.csv").write_text(object_table(prediction), encoding="utf-8")
        (part / "prediction.json").write_text(json.dumps(plain(asdict(prediction))), encoding="utf-8")
    return {"fixations": len(prediction.likeliest)}


def find_target(scene: Any, target: str | None) -> int | None:
    """The searched object by name or number.

    Raises:
        UserError: the scene has none of that name.
    """
    from core_runtime.tables import match_name

    if target is None:
        return None
    name = match_name(target, list(scene.names))
    if name is not None:
        return list(scene.names).index(name)
    if target.isascii() and target.isdigit() and 1 <= int(target) <= len(scene):
        return int(target) - 1
    some = ", ".join(list(scene.names)[:8])
    raise UserError(
        f"{scene.name} has no object {target!r}", f"its {len(scene)} objects are {some}{' …' if len(scene) > 8 else ''}"
    )


def object_table(prediction: Any) -> str:
    """CSV: how likely each object is looked at, when first, its place in the likeliest path, and how long, where durations are known."""
    lines = ["object,looked_at,first_at,place_in_likeliest,dwell_ms"]
    for index, name in enumerate(prediction.objects):
        first = prediction.first_at[index]
        shown = ""
        if first == first:
            shown = f"{first:g}"
        place = ""
        if index in prediction.likeliest:
            place = prediction.likeliest.index(index) + 1
        quoted = '"' + str(name).replace('"', '""') + '"'
        dwell = ""
        if prediction.dwell is not None:
            dwell = f"{prediction.dwell[index]:g}"
        lines.append(f"{quoted},{prediction.looked_at[index]:g},{shown},{place},{dwell}")
    return "\n".join(lines) + "\n"
