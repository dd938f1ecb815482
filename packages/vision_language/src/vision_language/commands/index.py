"""``vision-language index``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, OutFile, Overwrite, resolve_device


@dataclass(frozen=True)
class Indexed(Outcome):
    """An index that was written."""

    index: Path
    pictures: int
    instruction: str
    failed: dict[str, str]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.failed else 0

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        for name, why in self.failed.items():
            yield f"Left out: {name}: {why}"
        under = f" under “{self.instruction}”" if self.instruction else ""
        yield f"{self.pictures} pictures{under}: {self.index}"
        yield f"Next: vision-language find {self.index} PICTURE --model MODEL"


def index(
    pictures: Path,
    /,
    *,
    model: Model = None,
    instruction: str = "",
    precision: Literal["float16", "float32"] = "float32",
    out: OutFile = Path("pictures.safetensors"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Indexed:
    """Embeds a folder of pictures under an instruction, for `find`.

    Example: vision-language index photos --instruction "which colour is it?" --model run/model --out colour.safetensors

    Args:
        pictures: a folder.
        instruction: what the embeddings are about; without one they are plain CLIP's.
        precision: of the vectors in the file.
        out: the index, a safetensors file.
    """
    import numpy as np

    from core_runtime.identity import model_identity, refuse_inputs_as_outputs
    from core_runtime.index import Index, save_index
    from core_runtime.pictures import find_pictures, open_picture
    from core_runtime.terminal import track
    from vision_language.model.folder import load_embedder

    files = find_pictures(pictures)
    if out.exists() and not overwrite:
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another file")
    refuse_inputs_as_outputs(files, [out])
    embedder = load_embedder(model, resolve_device(device))
    names, images, failed = [], [], {}
    folder = pictures if pictures.is_dir() else pictures.parent
    rows = []
    for file in track(files, "Embedding"):
        name = file.relative_to(folder).as_posix()
        try:
            images.append(open_picture(file).image)
        except UserError as error:
            failed[name] = error.message
            continue
        names.append(name)
        if len(images) == 64:
            rows.append(embedder.embed(images, instruction))
            images = []
    if images:
        rows.append(embedder.embed(images, instruction))
    if not rows:
        raise UserError(f"none of the {len(files)} pictures in {pictures} can be read")
    vectors = np.concatenate(rows).astype(precision)
    made_from = {"model": model_identity(Path(str(model))), "instruction": instruction}
    facts = {"folder": str(folder.resolve())}
    save_index(Index(tuple(names), vectors, made_from, facts), out)
    return Indexed(out, len(names), instruction, failed)
