"""``pathology-mil inspect``."""

from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.findings import Findings
from pathology_mil.slides.options import ScanOptions

if TYPE_CHECKING:
    from pathology_mil.reports.examination import Examination


def inspect(path: Path, /, *, scan: ScanOptions = ScanOptions(), picture: Path | None = None) -> "Examination":
    """Reports what a file holds, whether it can be used, and what to do next.

    Example: pathology-mil inspect slide.svs --picture slide.png

    Args:
        path: a slide, a folder, tiles, features or annotations.
        picture: also draw the tissue and the tiles, into this file (.png, .jpg).
    """
    from core_runtime.findings import write_picture
    from pathology_mil.reports.examination import examine

    findings = examine(path, mpp=scan.mpp, pictures=picture is not None)
    if picture is not None:
        write_picture(findings, picture)
    return findings


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    from pathology_mil.reports.examination import examine

    return examine(path, pictures=True)
