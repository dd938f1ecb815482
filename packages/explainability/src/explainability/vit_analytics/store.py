"""What head analytics keep of a set of pictures: one folder of a manifest and safetensors, of which a slice can be read without the rest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing

FORMAT = 1
TOP = 255


def quantise(maps: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """``√a`` in 256 steps: the error of √a is below 1/255, so small weights keep their digits."""
    return (maps.clamp(0, 1).sqrt() * TOP).round().to(torch.uint8)


def restore(maps: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Attention again."""
    return (maps.float() / TOP).square()


@dataclass(frozen=True)
class HeadStore:
    """A store that is open.

    Attributes:
        folder: where it is.
        manifest: which arrays there are, with their shapes and axes; pictures, layers, heads, grid, model.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def write(cls, folder: Path, arrays: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "HeadStore":
        """Writes a store, half precision but for what is quantised. Axes of every array: images, layers, heads, and its own."""
        shapes = {}
        for name, values in arrays.items():
            stored = values if values.dtype in (torch.uint8, torch.int64, torch.int32) else values.half()
            with writing(folder / f"{name}.safetensors") as part:
                save_file({name: stored.contiguous()}, part)
            shapes[name] = {"shape": list(values.shape), "dtype": str(stored.dtype).removeprefix("torch.")}
        manifest = {"format": FORMAT, **facts, "arrays": shapes}
        write_text(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1))
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path | str) -> "HeadStore":
        """Opens a store.

        Raises:
            UserError: no store, a damaged one, or one of another format.
        """
        folder = Path(folder)
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(
                f"{folder} is no store of heads: it has no manifest.json", "'explainability heads' makes one"
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            known = manifest["format"]
            manifest["arrays"].items()
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error})", "make the store again") from None
        if known != FORMAT:
            raise UserError(f"{path} has format {known}, this version reads {FORMAT}", "make the store again")
        return cls(folder, manifest)

    @property
    def names(self) -> Sequence[str]:
        """The arrays."""
        return list(self.manifest["arrays"])

    def slice(self, name: str, *index: int | slice) -> Tensor:
        """Part of an array, of which no more is read; halves come as float32, maps as attention.

        Args:
            name: of the array.
            index: for each of the first axes a number or a slice; the others whole.

        Raises:
            UserError: no such array, an index out of range, or a damaged file.
        """
        described = self.manifest["arrays"].get(name)
        if described is None:
            raise UserError(f"the store has no array {name!r}", f"it has {', '.join(self.names)}")
        shape = described["shape"]
        if len(index) > len(shape):
            raise UserError(f"{name} has {len(shape)} axes {tuple(shape)}, asked for {len(index)}")
        for axis, (place, length) in enumerate(zip(index, shape, strict=False)):
            if isinstance(place, int) and not -length <= place < length:
                raise UserError(f"{name}: {place} is out of range on axis {axis}, which has {length}")
        # whole axes: a number is taken as a slice of one, and the axis dropped afterwards
        slices, dropped = [], []
        for axis, place in enumerate(index):
            if isinstance(place, int):
                place = place % shape[axis]
                dropped.append(axis)
                slices.append(slice(place, place + 1))
            else:
                slices.append(slice(*place.indices(shape[axis])))
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as opened:
                part = opened.get_slice(name)
                if part.get_shape() != shape:
                    raise ValueError(f"has shape {part.get_shape()}, expected {shape}")
                values = part[tuple(slices)] if slices else part[:]
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({error})", "make the store again") from None
        values = values.squeeze(tuple(dropped)) if dropped else values
        if name == "attention":
            return restore(values)
        return values.float() if values.dtype == torch.float16 else values
