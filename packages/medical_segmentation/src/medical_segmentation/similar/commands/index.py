"""``medical-segmentation similar index``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Device, Model, Out, Overwrite, Threads, resolve_device, use_threads
from medical_segmentation.similar.images import find_images


@dataclass(frozen=True)
class Index(Outcome):
    """A folder that `find` searches: embeddings.safetensors, index.json and the model."""

    out: Path
    images: int
    coordinates: int

    def facts(self) -> dict[str, Any]:
        return {"index": self.out, "images": self.images, "coordinates": self.coordinates}

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
    overwrite: Overwrite = False,
) -> Index:
    """Embeds images so that similar ones can be found among them.

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
        return Index(out, len(images), loaded.network.config.size)
    if out.exists():
        refuse_foreign_folder(out, files, overwrite=overwrite)
    embeddings, _ = loaded.embed(images, range(len(images)))
    if not bool(embeddings.isfinite().all()):
        raise UserError(f"{data}: embeddings that are not finite", "the model's weights are damaged: train again")
    described = {
        "source": str(data.resolve()),
        "layout": images.layout,
        "names": list(images.names),
        "labels": [images.classes[label] for label in images.labels],
        "learners": [list(each) for each in loaded.network.learners],
    }
    begin(out, key)
    with writing(out) as part:
        part.mkdir()
        save_file({"embeddings": embeddings.contiguous()}, part / "embeddings.safetensors")
        (part / "index.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copytree(folder, part / "model")
    finish(out, key)
    return Index(out, len(images), embeddings.shape[1])
