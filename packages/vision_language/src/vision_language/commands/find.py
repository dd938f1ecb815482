"""``vision-language find``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, OutFile, Overwrite, resolve_device


@dataclass(frozen=True)
class Found(Outcome):
    """What is most similar under the index' instruction."""

    query: str
    instruction: str
    similar: Sequence[tuple[str, float]]
    sheet: Path

    def facts(self) -> dict[str, Any]:
        rows = [{"picture": name, "similarity": value} for name, value in self.similar]
        return {"query": self.query, "instruction": self.instruction, "similar": rows, "sheet": self.sheet}

    def lines(self) -> Iterable[str]:
        for name, value in self.similar:
            yield f"{value:.3f}  {name}"
        yield f"Contact sheet: {self.sheet}"


def find(
    index: Path,
    query: str,
    /,
    *,
    model: Model = None,
    top: Annotated[int, AtLeast(1)] = 12,
    out: OutFile = Path("found.png"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Found:
    """Finds the pictures of an index that are most like a picture, or like a text, under its instruction.

    Example: vision-language find colour.safetensors photo.jpg --model run/model

    Args:
        index: what 'vision-language index' wrote.
        query: a picture, or words.
        top: how many.
        out: contact sheet, a PNG.
    """
    import numpy as np

    from core_runtime.folders import writing
    from core_runtime.identity import model_identity
    from core_runtime.index import load_index
    from core_runtime.models import choose_model
    from core_runtime.pictures import open_picture
    from vision_language.model.folder import FOCAL_ADVICE, load_embedder

    if out.exists() and not overwrite:
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another file")
    known = load_index(index)
    instruction = str(known.made_from.get("instruction", ""))
    chosen = choose_model(model, advice=FOCAL_ADVICE)
    load_index(index, made_from={"model": model_identity(Path(chosen)), "instruction": instruction})
    embedder = load_embedder(chosen, resolve_device(device))
    file = Path(query)
    folder = Path(str(known.facts.get("folder", "")))
    own: list[str | None] = []
    if file.is_file():
        vector = embedder.embed([open_picture(file).image], instruction)
        if file.resolve().is_relative_to(folder):
            own = [file.resolve().relative_to(folder).as_posix()]
    elif file.suffix:
        raise UserError(f"no such picture: {query}", "give a picture that is there, or words")
    else:
        vector = embedder.embed_texts([query]).float().cpu().numpy()
    similar = known.nearest(np.asarray(vector), top, leave_out=own)[0]
    with writing(out) as part:
        _sheet(folder, similar).save(part, format="PNG")
    return Found(query, instruction, similar, out)


def _sheet(folder: Path, similar: Sequence[tuple[str, float]]) -> Any:
    """Thumbnails in rows of six, most similar first, with their similarity; pictures that are gone are grey."""
    from PIL import Image, ImageDraw

    from core_runtime.pictures import open_picture

    side, columns = 128, 6
    rows = -(-len(similar) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + 24)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, value) in enumerate(similar):
        x, y = place % columns * (side + 8) + 4, place // columns * (side + 24) + 4
        try:
            shown = open_picture(folder / name).image
            shown.thumbnail((side, side))
        except UserError:
            shown = Image.new("RGB", (side, side), "grey")
        sheet.paste(shown, (x, y))
        pen.text((x, y + side + 2), f"{value:.3f}", fill="black")
    return sheet
