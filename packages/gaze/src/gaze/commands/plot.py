"""``gaze plot``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Out, Overwrite
from gaze.scanpaths.reading_options import ReadOptions


@dataclass(frozen=True)
class Plotted(Outcome):
    """The figures that were written."""

    figures: Sequence[Path]
    not_drawn: int

    def facts(self) -> dict[str, Any]:
        return {"figures": list(self.figures), "not_drawn": self.not_drawn}

    def lines(self) -> Iterable[str]:
        yield f"{len(self.figures)} figures: {self.figures[0].parent}"
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
    scanpaths = [scanpath for scanpath in read_scanpaths(path, reading).scanpaths if len(scanpath)]
    if not scanpaths:
        raise UserError(f"{path} holds no fixations", "look at it with 'gaze inspect'")
    drawn = scanpaths[:most]
    names = []
    with begun(out, {"plot": identity(path)}), writing(out) as folder:
        folder.mkdir()
        for number, scanpath in track(enumerate(drawn, 1), "Drawing", len(drawn)):
            scene = screen_of(scanpath, find_picture(images, scanpath.stimulus))
            title = f"{scanpath.name}: {len(scanpath)} fixations"
            figure = draw_path(scene, scanpath.points, durations=scanpath.duration, title=title)
            name = f"path_{number:04}.png"
            figure.savefig(folder / name, dpi=110)
            names.append(out / name)
    return Plotted(names, len(scanpaths) - len(drawn))
