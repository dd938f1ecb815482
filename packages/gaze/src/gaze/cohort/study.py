"""Scanpaths together with the objects of their scenes: which object each fixation is on, and which one was searched."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, IntegerPair, options
from core_runtime.tables import match_name
from gaze.scanpaths.aoi_files import areas_of, assign, look_at_boxes, read_areas
from gaze.scanpaths.aois import Areas
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.scanpath import Scanpath
from gaze.scenes.grids import equal_grid
from gaze.scenes.pictures import picture_size
from gaze.scenes.scene import PICTURES, Layout, Scene, cut_crops, free_layout, read_crops


@options
class ObjectOptions:
    """Which objects the scenes hold.

    Attributes:
        areas: objects as boxes or polygons: JSON, COCO JSON, CSV or a label image; of one file for all scenes, or with the scene's name.
        grid: ROWS,COLUMNS of equal cells that fill each picture, in place of areas.
        images: folder of the pictures, for the looks of the objects; without it the model sees places alone.
        crops: folder of the objects' own pictures, STIMULUS/OBJECT.png or OBJECT.png, in place of what is cut out of the images.
        inside: a fixation outside every object is left out; else it belongs to the nearest object, as published.
        longest: fixations of a path beyond this many are cut off; 0: none are.
        outliers: leave out paths whose length is more than this many standard deviations from the mean, as published (3); 0: none.
    """

    areas: Path | None = None
    grid: IntegerPair | None = None
    images: Path | None = None
    crops: Path | None = None
    inside: bool = False
    longest: Annotated[int, AtLeast(0)] = 0
    outliers: Annotated[float, AtLeast(0)] = 0.0


@dataclass(frozen=True, eq=False)
class Trial:
    """One subject's search in one scene.

    Attributes:
        name: unique in a study.
        scene: name of the scene.
        subject: who searched.
        objects: index of the object of each fixation, at least one.
        target: index of the searched object; None: not in the scene, or not known.
        scanpath: the fixations that `objects` stand for, one each.
        split: of a published data set.
    """

    name: str
    scene: str
    subject: str
    objects: Sequence[int]
    target: int | None
    scanpath: Scanpath
    split: str | None = None

    @property
    def digest(self) -> str:
        """What tells this trial as it is judged from every other: its fixations, their objects, and the target."""
        judged = self.scanpath.timed_points.tobytes() + repr((list(self.objects), self.target)).encode()
        return hashlib.sha256(judged).hexdigest()[:16]

    @property
    def source(self) -> str:
        """What tells the recorded path from every other, whatever options left out of it."""
        return self.scanpath.source


@dataclass(eq=False)
class Study:
    """Scenes, and the trials in them.

    Attributes:
        scenes: by name.
        trials: in the order of the files.
        left_out: reason → how many trials or fixations were left out.
        notes: what the user should know.
        kind: of the files.
    """

    scenes: Mapping[str, Scene]
    trials: Sequence[Trial]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Sequence[str] = ()
    kind: str = ""

    def select(self, trials: Sequence[Trial]) -> "Study":
        """A study of some of the trials."""
        names = {trial.scene for trial in trials}
        scenes = {name: scene for name, scene in self.scenes.items() if name in names}
        return Study(scenes, trials, Counter(), self.notes, self.kind)

    def account(self) -> str:
        """One line: what there is, and what was left out."""
        subjects = len({trial.subject for trial in self.trials})
        fixations = sum(len(trial.objects) for trial in self.trials)
        words = (
            f"{len(self.trials)} paths of {subjects} subjects over {len(self.scenes)} scenes, {fixations:,} fixations"
        )
        if self.left_out:
            words += "; left out: " + ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return words


def load_study(
    path: Path,
    objects: ObjectOptions = ObjectOptions(),
    reading: ReadOptions = ReadOptions(),
    *,
    crop: tuple[int, int] | None = None,
) -> Study:
    """Reads scanpaths, finds the objects of their scenes, and gives every fixation its object.

    Args:
        path: a file of scanpaths, or a folder of them.
        objects: where the objects are.
        reading: how scanpaths are read.
        crop: height and width of the looks; None: none are needed.

    Raises:
        UserError: no objects are named, a scene has none, or nothing is left.
    """
    source = read_scanpaths(path, reading)
    left_out = Counter(source.left_out)
    scenes: dict[str, Scene] = {}
    find_areas = _areas(path, objects)
    odd: Counter[str] = Counter()
    trials: list[Trial] = []
    names: Counter[str] = Counter()
    for scanpath in source.scanpaths:
        key = scanpath.stimulus
        if key not in scenes:
            areas = find_areas(scanpath)
            if areas is None:
                left_out["paths whose scene has no objects"] += 1
                continue
            scenes[key] = _scene(scanpath, areas, objects, crop)
            odd.update(look_at_boxes(areas.boxes, areas.names, scenes[key].size))
        trial = _trial(scanpath, scenes[key], objects, left_out, names)
        if trial is not None:
            trials.append(trial)
    if objects.outliers:
        trials = _without_outliers(trials, objects.outliers, left_out)
    if not trials:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "the file holds none"
        raise UserError(f"{path}: no path is left ({reasons})", "look at it with 'gaze inspect'")
    used = {trial.scene for trial in trials}
    used_scenes = {name: scene for name, scene in scenes.items() if name in used}
    notes = [*source.notes, *(f"{note} ({count} of {len(scenes)} scenes)" for note, count in odd.items())]
    return Study(used_scenes, trials, left_out, notes, source.kind)


def _areas(path: Path, objects: ObjectOptions):
    """A function that gives the objects of a scanpath's scene, or None."""
    if objects.grid is not None and objects.areas is not None:
        raise UserError("--grid and --areas both name the objects", "give one of them")
    if objects.grid is not None:
        rows, columns = objects.grid

        def cells(scanpath: Scanpath) -> Areas:
            size = scanpath.display.size or _size(find_picture(objects.images, scanpath.stimulus))
            if size is None:
                raise UserError(
                    f"{scanpath.name}: the size of the picture is not known", "give --screen WIDTH,HEIGHT or --images"
                )
            boxes = equal_grid(rows, columns, size).boxes()
            return Areas(
                [f"{i // columns + 1},{i % columns + 1}" for i in range(len(boxes))], boxes, stimulus=scanpath.stimulus
            )

        return cells
    source = objects.areas or _areas_beside(path)
    if source is None:
        raise UserError(
            "nothing says where the objects of the scenes are",
            "give --areas FILE (boxes, polygons, COCO JSON, label image), or --grid ROWS,COLUMNS",
        )
    known = read_areas(source)

    def of_file(scanpath: Scanpath) -> Areas | None:
        return areas_of(scanpath.stimulus, known)

    return of_file


def _areas_beside(path: Path) -> Path | None:
    folder = path.parent
    if path.is_dir():
        folder = path
    for name in ("areas.json", "areas.csv"):
        if (folder / name).is_file():
            return folder / name
    return None


def _scene(scanpath: Scanpath, areas: Areas, objects: ObjectOptions, crop: tuple[int, int] | None) -> Scene:
    picture = find_picture(objects.images, scanpath.stimulus)
    size = scanpath.display.size or _size(picture)
    if size is None:
        far = (areas.boxes[:, :2] + areas.boxes[:, 2:]).max(0)
        size = (int(np.ceil(far[0])), int(np.ceil(far[1])))
    if areas.labels is not None and areas.labels.shape != (size[1], size[0]):
        height, width = areas.labels.shape
        raise UserError(
            f"the label image has {width} × {height} pixels, {scanpath.stimulus or 'the display'} {size[0]} × {size[1]}",
            "give labels for every pixel of the picture, or --screen WIDTH,HEIGHT",
        )
    if objects.grid is not None:
        layout = Layout.of_grid(equal_grid(*objects.grid, size))
    else:
        layout = free_layout(areas.boxes)
    crops = None
    if crop is not None and objects.crops is not None:
        crops = read_crops(objects.crops, scanpath.stimulus, areas.names, crop)
    elif crop is not None and picture is not None:
        crops = cut_crops(picture, areas.boxes, crop, size)
    return Scene(scanpath.stimulus, size, areas.names, areas.boxes, layout, crops, picture)


def find_picture(folder: Path | None, stimulus: str) -> Path | None:
    """The picture of a stimulus in a folder; None without a folder.

    Raises:
        UserError: no such folder, or no picture of that name in it.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    direct = folder / stimulus
    if stimulus and direct.is_file():
        return direct
    for ending in PICTURES:
        candidate = folder / f"{Path(stimulus).stem}{ending}"
        if candidate.is_file():
            return candidate
    raise UserError(f"--images {folder} holds no picture of {stimulus!r}", "name the pictures as the stimuli are named")


def _size(picture: Path | None) -> tuple[int, int] | None:
    if picture is None:
        return None
    return picture_size(picture)


def _trial(
    scanpath: Scanpath, scene: Scene, objects: ObjectOptions, left_out: Counter[str], names: Counter[str]
) -> Trial | None:
    areas = Areas(scene.names, scene.boxes, stimulus=scene.name)
    index = assign(areas, scanpath.points, nearest=not objects.inside)
    outside = index < 0
    if outside.any():
        left_out["fixations outside every object"] += int(outside.sum())
        scanpath, index = scanpath.select(~outside), index[~outside]
    if objects.longest and len(index) > objects.longest:
        left_out["fixations beyond --longest"] += len(index) - objects.longest
        keep = np.arange(len(index)) < objects.longest
        scanpath, index = scanpath.select(keep), index[: objects.longest]
    if not len(index):
        left_out["paths without fixations"] += 1
        return None
    name = scanpath.name
    names[name] += 1
    if names[name] > 1:
        name = f"{name} ({names[name]})"
    target = _target(scanpath, scene)
    if target is None and scanpath.target_box is not None and scanpath.target_present is not False:
        left_out["targets whose box meets no object"] += 1
    return Trial(name, scene.name, scanpath.subject, index.tolist(), target, scanpath, scanpath.split)


def _target(scanpath: Scanpath, scene: Scene) -> int | None:
    """The object that overlaps the target's box most; else the one that is named like the task."""
    if scanpath.target_present is False:
        return None
    if scanpath.target_box is not None:
        overlaps = _overlap(np.asarray(scanpath.target_box), scene.boxes)
        if overlaps.max() > 0:
            return int(overlaps.argmax())
        return None
    if scanpath.task:
        name = match_name(scanpath.task, list(scene.names))
        if name is None:
            return None
        return list(scene.names).index(name)
    return None


def _overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box with others."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    common = (high - low).clip(0).prod(1)
    union = box[2:].prod() + boxes[:, 2:].prod(1) - common
    return common / union


def _without_outliers(trials: list[Trial], deviations: float, left_out: Counter[str]) -> list[Trial]:
    lengths = np.array([len(trial.objects) for trial in trials])
    far = np.abs(lengths - lengths.mean()) > deviations * lengths.std()
    if far.any():
        left_out[f"paths whose length is over {deviations:g} standard deviations from the mean"] += int(far.sum())
    return [trial for trial, out in zip(trials, far, strict=True) if not out]
