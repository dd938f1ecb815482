"""``gui-grounding plot``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Out, Overwrite
from gui_grounding.items.conventions import Convention


@dataclass(frozen=True)
class Plotted(Outcome):
    """The figures that were written.

    Attributes:
        figures: a picture per screenshot, and ``report.html`` with all of them.
        notes: how boxes were read, what was left out.
        not_drawn: screenshots beyond ``--most``.
    """

    figures: Sequence[Path]
    notes: Sequence[str]
    not_drawn: int

    def facts(self) -> dict[str, Any]:
        return {"figures": list(self.figures), "notes": list(self.notes), "not_drawn": self.not_drawn}

    def lines(self) -> Iterable[str]:
        for note in self.notes:
            yield f"Note: {note}"
        yield f"{len(self.figures)} figures, and all on one page: {self.figures[0].parent / 'report.html'}"
        if self.not_drawn:
            yield f"{self.not_drawn} more screenshots were not drawn: --most draws more"


def plot(
    annotations: Path,
    /,
    *,
    images: Path | None = None,
    boxes: Convention | None = None,
    most: Annotated[int, AtLeast(1)] = 20,
    out: Out = Path("gui-figures"),
    overwrite: Overwrite = False,
) -> Plotted:
    """Draws the targets of annotations on their screenshots, so that a wrong reading of boxes is seen.

    Example: gui-grounding plot screenspot/ --out figures

    Args:
        annotations: ScreenSpot, v2, Pro or OSWorld-G: a file, or a folder with annotations and images.
        images: folder of the screenshots; default: images/ beside the annotations.
        boxes: how boxes are counted; default: told from each whole file, and said.
        most: screenshots at most.
    """
    from core_runtime.folders import writing
    from core_runtime.identity import begun, identity, refuse_foreign_folder
    from core_runtime.report import Report
    from core_runtime.terminal import track
    from gui_grounding.items.reading import read_items
    from gui_grounding.predictors import by_screenshot
    from gui_grounding.reports.overlay import mark, shade
    from gui_grounding.screens.pictures import open_screenshot

    annotations_read = read_items(annotations, images=images, boxes=boxes)
    groups = by_screenshot(annotations_read.items)
    refuse_foreign_folder(out, [annotations, *map(Path, groups)], overwrite=overwrite)
    notes = [*annotations_read.notes, annotations_read.account()]
    page = Report("Targets", lead=annotations_read.account())
    for note in annotations_read.notes:
        page.text(note)
    drawn = list(groups.items())[:most]
    names = []
    with begun(out, {"plot": identity(annotations)}), writing(out) as folder:
        folder.mkdir()
        for number, (image, items) in track(enumerate(drawn, 1), "Drawing", len(drawn)):
            shown = shade(open_screenshot(Path(image)).image, None)
            targets = [target for item in items for target in item.targets]
            name = f"{number:04}_{Path(image).stem}.png"
            mark(shown, [], [], targets).save(folder / name)
            instructions = "; ".join(item.instruction for item in items[:6])
            page.picture(folder / name, f"{Path(image).name}, {len(targets)} targets: {instructions[:300]}", width=480)
            names.append(out / name)
        page.write(folder / "report.html")
    return Plotted(names, notes, len(groups) - len(drawn))
