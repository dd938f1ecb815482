"""``gaze plot``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError, counted
from core_runtime.options import AtLeast, Out, Overwrite
from gaze.scanpaths.reading_options import ReadOptions

if TYPE_CHECKING:
    from gaze.scanpaths.scanpath import Scanpath
    from gaze.scenes.scene import Scene


@dataclass(frozen=True)
class Plotted(Outcome):
    """The figures that were written."""

    figures: Sequence[Path]
    not_drawn: int
    left_out: Mapping[str, int]
    notes: Sequence[str]

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        yield f"{counted(len(self.figures), 'figure')}: {self.figures[0].parent}"
        for reason, count in self.left_out.items():
            yield f"Left out: {count} {reason}"
        for note in self.notes:
            yield f"Note: {note}"
        if self.not_drawn:
            yield f"{self.not_drawn} more paths were not drawn: --most draws more"


def plot(
    path: Path,
    /,
    *,
    out: Out = Path("gaze-figures"),
    images: Path | None = None,
    most: Annotated[int, AtLeast(1)] = 20,
    reading: ReadOptions = ReadOptions(),
    overwrite: Overwrite = False,
) -> Plotted:
    """Draws scanpaths on their pictures: fixations numbered, circles as large as they are long.

    Example: gaze plot recording.asc --images pictures --out figures

    Args:
        path: a file of scanpaths, or a folder of them.
        images: folder of the pictures, named as the stimuli are.
        most: figures at most.
    """
    from core_runtime.folders import writing
    from core_runtime.identity import begun, identity, refuse_foreign_folder
    from core_runtime.terminal import track
    from gaze.cohort.study import find_picture
    from gaze.reports.figures import draw_path
    from gaze.scanpaths.opening import read_scanpaths
    from gaze.scenes.scene import screen_of

    refuse_foreign_folder(out, [path], overwrite=overwrite)
    content = read_scanpaths(path, reading)
    scanpaths = [scanpath for scanpath in content.scanpaths if len(scanpath)]
    if not scanpaths:
        raise UserError(f"{path} holds no fixations", "look at it with 'gaze inspect'")
    drawn = scanpaths[:most]
    names = []
    notes = list(content.notes)
    with begun(out, {"plot": identity(path)}), writing(out) as folder:
        folder.mkdir()
        for number, scanpath in track(enumerate(drawn, 1), "Drawing", len(drawn)):
            scene = screen_of(scanpath, find_picture(images, scanpath.stimulus))
            for note in look_at_view(scanpath, scene):
                if note not in notes:
                    notes.append(note)
            title = title_of(scanpath)
            figure = draw_path(scene, scanpath.points, durations=scanpath.duration, title=title)
            name = f"path_{number:04}.png"
            figure.savefig(folder / name, dpi=110)
            names.append(out / name)
    return Plotted(names, len(scanpaths) - len(drawn), content.left_out, notes)


def title_of(scanpath: "Scanpath") -> str:
    """The path's name, what was searched, the eye, and how long it is."""
    searched = ""
    if scanpath.task:
        searched = f", searching {scanpath.task}"
    eye = ""
    if scanpath.eye in ("left", "right"):
        eye = f", {scanpath.eye} eye"
    return f"{scanpath.name}{searched}{eye}: {counted(len(scanpath), 'fixation')}"


def look_at_view(scanpath: "Scanpath", scene: "Scene") -> Iterator[str]:
    """What a figure does not show: fixations beside it, and a picture of another shape than the screen."""
    from gaze.scenes.pictures import picture_size

    width, height = scene.size
    beside = (scanpath.points < 0) | (scanpath.points >= scene.size)
    if beside.any(1).all():
        yield f"{scanpath.name}: every fixation lies beside the screen of {width} × {height} px, so its figure shows none"
    if scene.picture is None:
        return
    across, down = picture_size(scene.picture)
    if abs(across * height / (down * width) - 1) > 0.02:
        yield (
            f"{scene.picture.name} has {across} × {down} px, another shape than the screen of {width} × {height} px: "
            "it is stretched over the screen"
        )
