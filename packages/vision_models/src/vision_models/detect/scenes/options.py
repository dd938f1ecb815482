"""Options that more than one verb of detect takes. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Scenes = Annotated[
    Path, Parameter(help="Pictures with boxes: a COCO file or a folder with one, an ExDark or a DARK FACE folder.")
]
ImageFolder = Annotated[Path | None, Parameter(help="Folder of a COCO file's pictures, where it is not beside it.")]
