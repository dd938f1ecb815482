"""``remote-sensing maps prompt``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Device, Out, Overwrite, Threads, resolve_device, use_threads


@dataclass(frozen=True)
class Outlined(Outcome):
    """The outlines from prompts, for each sheet with prompts on it."""

    sheets: Sequence[dict[str, Any]]

    def facts(self) -> dict[str, Any]:
        return {"sheets": self.sheets}

    def lines(self) -> Iterable[str]:
        for row in self.sheets:
            yield f"{row['sheet']}: {row['objects']} of {row['prompts']} outlined, {row['file']}"


def prompt(
    path: Path,
    /,
    *,
    prompts: Path,
    sam: Path,
    out: Out = Path("map-objects"),
    side: Annotated[int, AtLeast(16)] = 512,
    image_size: Annotated[int, AtLeast(32)] = 1024,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> Outlined:
    """Outlines the objects at your points or in your boxes, over a whole folder of sheets, with plain SAM.

    Example: remote-sensing maps prompt sheets/ --prompts houses.gpkg --sam sam_vit_b_01ec64.pth --out objects

    Args:
        path: a sheet or a folder of sheets.
        prompts: points or boxes (GeoPackage, GeoJSON); columns object and label may group points.
        sam: SAM's checkpoint (sam_vit_b_01ec64.pth).
        side: pixels of the sheet around a prompt that SAM gets.
        image_size: pixels of the network, a multiple of 16.
    """
    from remote_sensing.maps.model.prompting import load_prompted, prompt_sheets
    from remote_sensing.maps.sheets.formats import find_sheets

    use_threads(threads)
    sheets = find_sheets(path)
    network = load_prompted(sam, image_size=image_size, device=resolve_device(device))
    return Outlined(prompt_sheets(network, sheets, prompts, out, side=side, overwrite=overwrite))
