"""An index of pictures by class: what CHM-Corr keeps of its training images, in safe files of half precision.

A folder with ``index.json`` (which pictures, classes and backbone) and ``shards/*.safetensors``: of each picture its embedding, its 7 × 7 map,
a small copy of it, and with CHM its features at three scales. Only the embeddings are read at once; of the rest what a query needs.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.pictures import open_picture
from explainability.chm_corr.features import Backbone, embed, load_backbone
from explainability.chm_corr.matching import CHMNet, load_chm, prepare

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
SHARD = 256  # pictures
COPY = 240  # pixels of the longer side of the small copies
SCALES = ("scale_0", "scale_1", "scale_2")


@dataclass(frozen=True)
class Entry:
    """A picture of an index.

    Attributes:
        file: path below the indexed folder.
        label: number of its class.
        digest: of its content, which tells whether a query is the same file.
    """

    file: str
    label: int
    digest: str


def digest_of(content: bytes) -> str:
    """What tells a file from another by its content."""
    return hashlib.sha256(content).hexdigest()[:24]


def write_shard(
    path: Path, files: Sequence[Path], backbone: Backbone, chm: CHMNet | None, batch_size: int = 16
) -> list[str]:
    """Writes the features of some pictures; returns the digest of each.

    Raises:
        UserError: a picture cannot be read; it is named.
    """
    columns: dict[str, list[Tensor]] = {"embedding": [], "cells": []}
    copies: list[bytes] = []
    digests = []
    refused: list[UserError] = []
    for first in range(0, len(files), batch_size):
        images = []
        for file in files[first : first + batch_size]:
            try:
                images.append(open_picture(file).image)
            except UserError as error:
                refused.append(error)
                continue
            digests.append(digest_of(file.read_bytes()))
            copies.append(_small_copy(images[-1]))
        if refused:
            continue  # only to name all that cannot be read
        cells = backbone.cells(torch.cat([backbone.prepare(image) for image in images])).cpu()
        columns["embedding"].append(embed(cells).half())
        columns["cells"].append(cells.half())
        if chm is not None:
            device = backbone.pictures.device
            scaled = chm.scales_of_support(torch.cat([prepare(image, device) for image in images]))
            for name, values in zip(SCALES, scaled, strict=True):
                columns.setdefault(name, []).append(values.half().cpu())
    if refused:
        words = f"{len(refused)} of {len(files)} pictures cannot be read: {'; '.join(e.message for e in refused[:5])}"
        raise UserError(words, "mend or remove them and run again")
    tensors = {name: torch.cat(parts).contiguous() for name, parts in columns.items()}
    unusable = int((~tensors["cells"].isfinite()).flatten(1).any(1).sum())
    if unusable:
        raise UserError(f"the features of {unusable} pictures do not fit half precision", "choose another --model")
    tensors["copies"] = torch.frombuffer(bytearray(b"".join(copies)), dtype=torch.uint8)
    tensors["copies_end"] = torch.tensor([len(copy) for copy in copies]).cumsum(0)
    with writing(path) as part:
        save_file(tensors, part, metadata={"digests": json.dumps(digests)})
    return digests


def digests_of_shard(path: Path) -> list[str]:
    """The digest of each of its pictures."""
    try:
        with safe_open(path, framework="pt") as opened:
            return json.loads(opened.metadata()["digests"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error})", "remove it and run again") from None


def _small_copy(image: "Image") -> bytes:
    copy = image.copy()
    copy.thumbnail((COPY, COPY))
    content = io.BytesIO()
    copy.save(content, "JPEG", quality=88)
    return content.getvalue()


def fingerprint_of(backbone: Backbone) -> list[float]:
    """The first numbers of the embedding of a fixed pattern: tells whether a backbone is the one that an index was made with."""
    height, width = backbone.pictures.size
    pattern = torch.linspace(-2, 2, 3 * height * width).view(1, 3, height, width).sin()
    return embed(backbone.cells(pattern.to(backbone.pictures.device)))[0, :16].cpu().tolist()


@dataclass(frozen=True)
class Index:
    """An index that is open.

    Attributes:
        folder: where it is.
        classes: names.
        entries: its pictures, in the order of the shards.
        shards: files with the number of pictures in each.
        made_with: the backbone and, where CHM was used, its checkpoint.
        source: folder that was indexed.
    """

    folder: Path
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    shards: tuple[tuple[str, int], ...]
    made_with: Mapping[str, Any]
    source: str
    _copies: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path | str) -> "Index":
        """Opens an index.

        Raises:
            UserError: no index, an unfinished or damaged one, or one of a later format; says what is wrong.
        """
        folder = Path(folder)
        manifest = folder / "index.json"
        if not manifest.is_file():
            raise UserError(
                f"{folder} is not an index: it has no index.json",
                "'explainability index FOLDER --model NAME --out DIR' makes one; a rerun finishes an interrupted one",
            )
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            version = content["format"]
            entries = tuple(Entry(str(e["file"]), int(e["label"]), str(e["digest"])) for e in content["entries"])
            shards = tuple((str(name), int(count)) for name, count in content["shards"])
            index = cls(folder, tuple(content["classes"]), entries, shards, content["made_with"], content["source"])
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{manifest} is damaged ({type(error).__name__}: {error})", "make the index again"
            ) from None
        if version != FORMAT:
            raise UserError(f"{manifest} has format {version}, this version reads {FORMAT}", "make the index again")
        inside = all(Path(name).name == name for name, _ in shards)
        if not inside or sum(count for _, count in shards) != len(entries) or not entries:
            raise UserError(
                f"{manifest} is damaged: its shards do not hold its {len(entries)} pictures", "make the index again"
            )
        if any(not 0 <= entry.label < len(index.classes) for entry in entries):
            raise UserError(f"{manifest} is damaged: a label is of no class", "make the index again")
        return index

    def write(self) -> None:
        """Writes ``index.json``: from then on the index is complete."""
        entries = [{"file": e.file, "label": e.label, "digest": e.digest} for e in self.entries]
        content = {
            "format": FORMAT,
            "source": self.source,
            "made_with": self.made_with,
            "classes": self.classes,
            "shards": self.shards,
            "entries": entries,
        }
        write_text(self.folder / "index.json", json.dumps(content, ensure_ascii=False, indent=1))

    @cached_property
    def embeddings(self) -> Tensor:
        """Of all pictures, (n, c), float32 of length 1."""
        parts = [self._read(number, "embedding", slice(None)) for number in range(len(self.shards))]
        return torch.nn.functional.normalize(torch.cat(parts).float(), dim=1)

    @property
    def labels(self) -> list[int]:
        """Number of the class of each picture."""
        return [entry.label for entry in self.entries]

    def rows(self, name: str, numbers: Sequence[int]) -> Tensor:
        """One array of some pictures, in their order, as it was saved."""
        return torch.cat([self._read(*self._place(number, name)) for number in numbers])

    def copy(self, number: int) -> bytes:
        """The small copy of a picture, a JPEG."""
        if number not in self._copies:
            shard, _, place = self._place(number, "copies")
            ends = self._read(shard, "copies_end", slice(None)).tolist()
            first = ends[place.start - 1] if place.start else 0
            content = self._read(shard, "copies", slice(first, ends[place.start]))
            if len(self._copies) > 2000:
                self._copies.clear()
            self._copies[number] = content.numpy().tobytes()
        return self._copies[number]

    def _place(self, number: int, name: str) -> tuple[int, str, slice]:
        rest = number
        for shard, (_, count) in enumerate(self.shards):
            if rest < count:
                return shard, name, slice(rest, rest + 1)
            rest -= count
        raise IndexError(f"picture {number} of {len(self.entries)}")

    def _read(self, shard: int, name: str, rows: slice) -> Tensor:
        file, count = self.shards[shard]
        path = self.folder / "shards" / file
        try:
            with safe_open(path, framework="pt") as opened:
                part = opened.get_slice(name)
                if name not in ("copies",) and part.get_shape()[0] != count:
                    raise ValueError(f"{name} has {part.get_shape()[0]} rows, expected {count}")
                return part[rows]
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"{path} is missing or damaged ({error})", "make the index again with --overwrite"
            ) from None

    def load_networks(
        self, device: str = "cpu", *, weights: Path | None = None, chm: Path | None = None
    ) -> tuple[Backbone, CHMNet | None]:
        """The backbone and CHM that the index was made with.

        Args:
            device: where they compute.
            weights: where the backbone's checkpoint is now, if it was moved.
            chm: where CHM's checkpoint is now, if it was moved.

        Raises:
            UserError: they are not there any more, or not the same.
        """
        recipe = self.made_with
        path = weights or (Path(recipe["weights"]) if recipe.get("weights") else None)
        backbone = load_backbone(recipe["model"], path, device)
        now, then = torch.tensor(fingerprint_of(backbone)), torch.tensor(recipe["fingerprint"])
        if now.shape != then.shape or not torch.allclose(now, then, atol=1e-3):
            raise UserError(
                f"{recipe['model']} is not the model that {self.folder} was made with: its features are others",
                "make the index again with --overwrite, or bring back the model",
            )
        network = None
        if recipe.get("chm"):
            network = load_chm(chm or Path(recipe["chm"]), device)
        return backbone, network
