"""``explainability locate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome, plain
from core_runtime.errors import UserError
from core_runtime.options import Between, Device, Model, Out, Overwrite, resolve_device
from explainability.commands.explain import KNOWN

if TYPE_CHECKING:
    from explainability.sat_wsol.localisation import Localisation


@dataclass(frozen=True)
class Located(Outcome):
    """Where objects are.

    Attributes:
        out: folder with ``boxes.json`` and a picture of each box.
        method: whose maps.
        boxes: of each picture, x0, y0, x1, y1 in its pixels, ends exclusive.
        measures: against true boxes; None without.
        judged: pictures with true boxes.
        notes: what the user should know.
    """

    out: Path
    method: str
    boxes: Sequence[Mapping[str, Any]]
    measures: "Localisation | None"
    judged: int
    notes: Sequence[str]

    def facts(self) -> dict[str, Any]:
        measures = None if self.measures is None else asdict(self.measures)
        return {
            "method": self.method,
            "boxes": list(self.boxes),
            "measures": measures,
            "judged": self.judged,
            "notes": list(self.notes),
            "out": self.out,
        }

    def lines(self) -> Iterable[str]:
        for note in self.notes:
            yield f"Note: {note}"
        for each in self.boxes[:10]:
            yield f"{each['picture']}: {each['label']}, box {', '.join(str(end) for end in each['box'])}"
        if len(self.boxes) > 10:
            yield f"… and {len(self.boxes) - 10} more"
        if self.measures is not None:
            m = self.measures
            yield f"On {self.judged} pictures with true boxes, in %:"
            yield f"  GT-known {100 * m.gt_known:.1f}, Top-1 {100 * m.top1:.1f} (the paper's rules at the threshold given)"
            yield f"  GT-known {100 * m.gt_known_chosen:.1f} at {m.threshold_chosen}, the best of four on these very pictures, as the paper has it"
            yield f"  MaxBoxAcc {100 * m.max_box_acc:.1f}, MaxBoxAccV2 {100 * m.max_box_acc_v2:.1f}"
            if m.pxap is not None:
                yield f"  PxAP {100 * m.pxap:.1f}"
        yield f"Boxes: {self.out / 'boxes.json'}"


def locate(
    path: Path,
    /,
    *,
    model: Model = None,
    method: str | None = None,
    threshold: Annotated[float, Between(0, 1)] = 0.4,
    boxes: Path | None = None,
    masks: Path | None = None,
    out: Out = Path("located"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Located:
    """Draws a box around the object of each picture, from the model's map; with true boxes or masks it is judged.

    Judged by the rules of SAT's paper, MaxBoxAcc, MaxBoxAccV2 and, with masks, PxAP.

    Example: explainability locate shapes/test --model sat/model --masks shapes/masks

    Args:
        path: a picture, or a folder of them; where its folders are called like classes, Top-1 is told.
        method: whose maps: gradcam, ig, lrp, sr, rollout, attention or own; default: own where the model has a map of its own, else gradcam.
        threshold: of the min-max map; the box is around the largest area above it.
        boxes: COCO file of true boxes, with file names as below the folder.
        masks: folders and names as those of the pictures; what is not black is the object.
    """
    import torch

    from core_runtime.folders import writing
    from core_runtime.identity import begin, finish, refuse_foreign_folder
    from core_runtime.pictures import open_picture
    from core_runtime.terminal import track
    from explainability.attribution.methods import explainer
    from explainability.attribution.targets import logits_of
    from explainability.images.formats import find_images
    from explainability.models.loading import load_classifier
    from explainability.reports.figures import draw_boxes
    from explainability.sat_wsol.boxes import box_at, normalise_map
    from explainability.sat_wsol.localisation import localise

    if method is not None and method not in KNOWN:
        raise UserError(f"--method {method}: no such method", f"methods are {', '.join(KNOWN)}")
    if boxes is not None and masks is not None:
        raise UserError("--boxes and --masks were both given", "true boxes come from one of them")
    files = find_images(path)
    refuse_foreign_folder(out, files, overwrite=overwrite)
    classifier = load_classifier(model, resolve_device(device))
    explaining = method or ("own" if has_own_map(classifier.model) else "gradcam")
    truths = true_boxes(files, path, boxes, masks)
    kept_maps, kept_truths, kept_masks, right, located, notes = [], [], [], [], [], []
    constant = 0
    begin(out, {"verb": "locate"})
    with writing(out) as part:
        (part / "pictures").mkdir(parents=True)
        for number, file in enumerate(track(files, "Locating")):
            picture = open_picture(file)
            image = classifier.prepare(picture.image).to(classifier.device)
            with torch.no_grad():
                label = int(logits_of(classifier.model(image)).argmax())
            try:
                attribution = explainer(classifier.model, explaining).attribute(image, label)
            except ValueError as error:
                raise UserError(f"{file}: {error}", "choose another --method") from None
            values = torch.nan_to_num(attribution.heatmap().float(), 0.0, 0.0, 0.0).clamp(min=0)
            constant += bool((values == values.flatten()[0]).all())
            width, height = picture.image.size
            drawn = normalise_map(values, (height, width))[0].cpu().numpy()
            box = box_at(drawn, threshold)
            of_file = truths.get(file)
            shown = [] if of_file is None else [(x0, y0, x1 + 1, y1 + 1) for x0, y0, x1, y1 in of_file[0]]
            draw_boxes(picture.image, drawn, box, shown).savefig(part / "pictures" / f"{number:05d}.png", dpi=80)
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            located.append({"picture": name, "label": classifier.name(label), "box": list(box)})
            if of_file is not None:
                kept_maps.append(drawn)
                kept_truths.append(of_file[0])
                kept_masks.append(of_file[1])
                right.append(classifier.name(label) == file.parent.name)
        measures = None
        if kept_maps:
            whole = [mask for mask in kept_masks if mask is not None]
            measures = localise(kept_maps, kept_truths, right, threshold, whole if masks is not None else None)
            if not any(right):
                notes.append("no picture lies in a folder called like its predicted class, so Top-1 is 0")
        elif boxes is not None or masks is not None:
            raise UserError("none of the pictures has a true box", "names are those below the folder of pictures")
        if truths and len(kept_maps) < len(files):
            notes.append(f"{len(files) - len(kept_maps)} of {len(files)} pictures have no true box and are not judged")
        if constant:
            notes.append(f"the map of {constant} pictures is constant: their box is the whole picture")
        result = Located(out, explaining, located, measures, len(kept_maps), notes)
        text = json.dumps(plain({**result.facts(), "threshold": threshold}), ensure_ascii=False, indent=1)
        (part / "boxes.json").write_text(text, encoding="utf-8")
    finish(out, {"verb": "locate"})
    return result


def has_own_map(model: Any) -> bool:
    """Whether a model makes a map while it answers."""
    from explainability.promptcam.model import PromptCAM
    from explainability.sat_wsol.model import SAT
    from explainability.tcpa.model import TCPA

    return isinstance(model, (PromptCAM, SAT, TCPA))


def true_boxes(files: Sequence[Path], path: Path, boxes: Path | None, masks: Path | None) -> dict[Path, Any]:
    """Picture → (its true boxes with inclusive ends, its mask or None); pictures without are left out.

    Raises:
        UserError: a mask's size is not the picture's, or it is all black.
    """
    import numpy as np
    from PIL import Image

    from core_runtime.boxes import read_coco
    from core_runtime.pictures import open_picture
    from explainability.sat_wsol.localisation import boxes_of_mask

    truths: dict[Path, Any] = {}
    base = path if path.is_dir() else path.parent
    if boxes is not None:
        by_name = {image.file.resolve(): image for image in read_coco(boxes, base).images}
        for file in files:
            image = by_name.get(file.resolve())
            if image is not None and len(image.boxes):
                truths[file] = ([(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in image.boxes], None)
    elif masks is not None:
        for file in files:
            place = masks / file.relative_to(base)
            if not place.is_file():
                place = place.with_suffix(".png")
            if not place.is_file():
                continue
            with Image.open(file) as opened:
                size = opened.size
            mask = np.asarray(open_picture(place, what="masks").image.convert("L")) > 0
            if mask.shape != (size[1], size[0]):
                raise UserError(
                    f"{place} is {mask.shape[1]} × {mask.shape[0]} pixels, its picture {size[0]} × {size[1]}"
                )
            if not mask.any():
                raise UserError(f"{place} is all black: there is no object", "remove it to leave the picture unjudged")
            truths[file] = (boxes_of_mask(mask), mask)
    return truths
