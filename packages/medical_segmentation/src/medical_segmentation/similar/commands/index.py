"""``medical-segmentation similar index``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.bulk import Attempt, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, SkipErrors, Threads, resolve_device, use_threads
from medical_segmentation.similar.images import find_images


@dataclass(frozen=True)
class Index(Outcome):
    """A folder that `find` searches: embeddings.safetensors, index.json and the model.

    Attributes:
        out: the folder.
        images: how many are in it.
        coordinates: of an embedding.
        left_out: images that cannot be read → why.
    """

    out: Path
    images: int
    coordinates: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(Attempt(name, "left out", why) for name, why in self.left_out.items())

    def facts(self) -> dict[str, Any]:
        return {
            "index": self.out,
            "images": self.images,
            "coordinates": self.coordinates,
            "left_out": dict(self.left_out),
        }

    def lines(self) -> Iterable[str]:
        yield f"{self.images} images of {self.coordinates} coordinates in {self.out}"
        yield f"Next: medical-segmentation similar find IMAGE --index {quote(str(self.out))}"


def index(
    data: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("index"),
    device: Device = "auto",
    threads: Threads = None,
    skip_errors: SkipErrors = True,
    overwrite: Overwrite = False,
) -> Index:
    """Embeds images so that similar ones can be found among them. Images that cannot be read are named and left out.

    Example: medical-segmentation similar index archive/ --model run/model --out index

    Args:
        data: images, with classes or without.
    """
    images = find_images(data)
    from safetensors.torch import save_file

    from core_runtime.folders import writing
    from core_runtime.identity import begin, data_fingerprint, finish, is_done, model_identity, refuse_foreign_folder
    from core_runtime.models import choose_model
    from medical_segmentation.similar.model.folder import ADVICE, load_model

    folder = Path(choose_model(model, advice=ADVICE))
    root = data if data.is_dir() else data.parent
    files = [data] if images.arrays is not None else [root / name for name in images.names]
    key = {"images": data_fingerprint(files), "names": list(images.names), "model": model_identity(folder)}
    use_threads(threads)
    loaded = load_model(folder, device=resolve_device(device))
    if not overwrite and is_done(out, key):
        described = json.loads((out / "index.json").read_text(encoding="utf-8"))
        left_out = described.get("left_out", {})  # an index of before has none
        if left_out and not skip_errors:
            name, why = next(iter(left_out.items()))
            raise UserError(f"{name}: {why}", "the index that is there leaves it out")
        return Index(out, len(described["names"]), loaded.network.config.size, left_out)
    if out.exists():
        refuse_foreign_folder(out, files, overwrite=overwrite)
    unreadable: dict[int, str] = {}
    embeddings, _ = loaded.embed(images, range(len(images)), unreadable=unreadable if skip_errors else None)
    numbers = [number for number in range(len(images)) if number not in unreadable]
    left_out = {images.names[number]: why for number, why in unreadable.items()}
    if not bool(embeddings.isfinite().all()):
        raise UserError(f"{data}: embeddings that are not finite", "the model's weights are damaged: train again")
    described = {
        "source": str(data.resolve()),
        "layout": images.layout,
        "names": [images.names[number] for number in numbers],
        "labels": [images.classes[images.labels[number]] for number in numbers] if images.labels else [],
        "left_out": left_out,
        "learners": [list(each) for each in loaded.network.learners],
    }
    begin(out, key)
    with writing(out) as part:
        part.mkdir()
        save_file({"embeddings": embeddings.contiguous()}, part / "embeddings.safetensors")
        (part / "index.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copytree(folder, part / "model")
    finish(out, key)
    return Index(out, len(numbers), embeddings.shape[1], left_out)
