"""The picture and the page of a query's correspondences."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.report import Report
from explainability.chm_corr.transfer import GRID

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from explainability.chm_corr.index import Index

SHOWN_CELLS = 5


def draw_correspondences(image: "Image", facts: Mapping[str, Any], index: "Index") -> "Figure":
    """Over each support image of the winning class the query with the cells that match, each pair in one colour."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from PIL import Image as Images

    support = facts["support"]
    count = max(1, len(support))
    figure = Figure(figsize=(2.5 * count, 5.4), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for column, pair in enumerate(support):
        other = Images.open(io.BytesIO(index.copy(pair["number"])))
        axes[0, column].imshow(image)
        axes[0, column].set_title("query" if column == 0 else "", fontsize=9)
        axes[1, column].imshow(other)
        axes[1, column].set_title(f"{pair['class']}, score {pair['score']:.3f}", fontsize=9)
        for colour, cell in zip(colours, pair["cells"][:SHOWN_CELLS], strict=False):
            _outline(axes[0, column], image.size, cell["query"], colour)
            _outline(axes[1, column], other.size, cell["support"], colour)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def _outline(axis: "Axes", size: tuple[int, int], cell: tuple[int, int], colour: Any) -> None:
    from matplotlib.patches import Rectangle

    width, height = size[0] / GRID, size[1] / GRID
    row, column = cell
    corner = (column * width - 0.5, row * height - 0.5)
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=2.5))


def write_correspondence(folder: Path, image: "Image", name: str, facts: Mapping[str, Any], index: "Index") -> Path:
    """Writes ``correspondence.png`` and ``report.html`` into a folder."""
    draw_correspondences(image, facts, index).savefig(folder / "correspondence.png", dpi=110)
    votes = ", ".join(f"{label} {count}" for label, count in facts["votes"].items())
    page = Report(name, lead=f"{facts['label']}: {facts['votes'][facts['label']]} of {facts['k']} votes")
    for note in facts["notes"]:
        page.warning(note)
    caption = (
        "Boxes of one colour are cells that match; they are the reason for the label, not an explanation after it."
    )
    page.picture(folder / "correspondence.png", caption)
    page.heading("Votes").text(votes)
    page.text(f"The nearest images alone (kNN) say {facts['knn']}.")
    if facts["user_mask"] is not None:
        rows = [" ".join("■" if cell else "·" for cell in row) for row in facts["user_mask"]]
        page.heading("Cells that the user allowed").command(*rows)
    return page.write(folder / "report.html")
