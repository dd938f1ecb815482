"""``gui-grounding sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Overwrite, Seed


@dataclass(frozen=True)
class Sampled(Outcome):
    """Where the samples are."""

    folder: Path
    annotations: Path
    training: Path
    pages: int
    items: int
    rendered: str

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        how = "drawn"
        if self.rendered == "chromium":
            how = "rendered in Chromium"
        yield f"{self.pages} pages, {how}, with {self.items} instructions: {self.annotations} (ScreenSpot-Pro), {self.training} (training)"
        yield f"Next: gui-grounding train '{self.training}' --out run"


def sample(
    out: Path,
    /,
    *,
    pages: Annotated[int, AtLeast(1)] = 72,
    render: Literal["auto", "chromium", "drawn"] = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Sampled:
    """Makes pages with exact boxes of their elements, in ScreenSpot-Pro's and the training format.

    Example: gui-grounding sample data

    Args:
        out: folder for the pages and files.
        pages: how many.
        render: chromium: as web pages in the system's browser; drawn: without one, the same on every machine; auto: in the browser where there is one.
    """
    from gui_grounding.samples import make_samples

    return Sampled(**make_samples(out, pages=pages, seed=seed, render=render, overwrite=overwrite).__dict__)
