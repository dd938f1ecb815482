"""``vision-models video contrast``, and ``predict``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.fields import read_field
from core_runtime.identity import begun, identity, is_done, model_identity
from core_runtime.options import (
    AtLeast,
    Between,
    Device,
    Model,
    Out,
    Overwrite,
    Seed,
    Threads,
    Workers,
    flat,
    options,
    resolve_device,
    use_threads,
)
from vision_models.video.options import VMoBAOptions
from vision_models.video.results import layer_lines

if TYPE_CHECKING:
    from torch import Tensor

    from vision_models.video.contrasting import Condition, Contrast
    from vision_models.video.latents import Codec


@options
class ClipOptions:
    """Which part of a clip goes through the model, and how.

    Attributes:
        frames: of the clip; default: the model's own, else 17.
        size: width x height to which it is scaled; default: the model's own, else 128x96.
        noise: share of noise that is added and taken away again.
        steps: of the denoising.
    """

    frames: Annotated[int, AtLeast(2)] | None = None
    size: str | None = None
    noise: Annotated[float, Between(0.05, 1)] = 0.6
    steps: Annotated[int, AtLeast(1)] = 4


@dataclass(frozen=True)
class Contrasted(Outcome):
    """A clip both ways.

    Attributes:
        values: tokens, relative difference, seconds of both.
        layers: density, recall and relative error of each.
        files: by name.
    """

    values: Mapping[str, Any]
    layers: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {
            **self.values,
            "layers": list(self.layers),
            "files": {name: str(path) for name, path in self.files.items()},
        }

    def lines(self) -> Iterable[str]:
        values = self.values
        time, height, width = values["grid"]
        yield f"{values['clip']}: {time} × {height} × {width} = {values['tokens']:,} tokens"
        yield f"  relative difference of the results {values['difference']:.4f}; mean density {values['density']:.3f}, recall {values['recall']:.3f}"
        yield f"  full attention {values['seconds']['full']:.2f} s, VMoBA {values['seconds']['vmoba']:.2f} s"
        yield from layer_lines(self.layers)
        if values["note"]:
            yield f"Note: {values['note']}"
        for name, path in self.files.items():
            yield f"{name}: {path}"


def contrast(
    clip: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("contrast"),
    vmoba: VMoBAOptions = VMoBAOptions(),
    how: ClipOptions = ClipOptions(),
    device: Device = "auto",
    workers: Workers = 0,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Contrasted:
    """Runs a clip through a Wan with full attention and with VMoBA from the same noise, and shows both with their difference.

    Example: vision-models video contrast clip.mp4 --model run/model --out contrast

    Args:
        clip: a video.
    """
    from core_runtime.models import choose_model
    from vision_models.video.published import ADVICE

    if not clip.exists():
        raise UserError(f"no such file: {clip}", "give a video")
    folder = Path(choose_model(model, advice=ADVICE))
    from vision_models.video.contrasting import contrast_clip
    from vision_models.video.model import load_transformer

    use_threads(threads)
    transformer = load_transformer(folder).to(resolve_device(device))
    scene = _read_scene(clip, folder, transformer, how)
    key = {
        "input": identity(clip),
        "model": model_identity(folder),
        "options": flat(vmoba=vmoba, how=how),
        "seed": seed,
    }
    if not overwrite and out.exists():
        if is_done(out, key):
            return _read_again(out)
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another folder")
    with begun(out, key):
        found = contrast_clip(
            transformer,
            scene.latents,
            scene.condition,
            vmoba,
            scene.codec,
            level=how.noise,
            steps=how.steps,
            seed=seed,
        )
        values = _figures(clip, scene, found, transformer.config.patch_size)
        return _write(out, found, values)


@dataclass(frozen=True)
class Scene:
    """A clip as a model takes it.

    Attributes:
        codec: from frames to latents and back.
        latents: (1, channels, time, height, width).
        condition: what the model is told beside them.
    """

    codec: Codec
    latents: Tensor
    condition: Condition


def _read_scene(clip: Path, folder: Path, transformer: Any, how: ClipOptions) -> Scene:
    """Reads a clip for a model; the text is zeros, and the image of an image-to-video model is the first frame.

    Raises:
        UserError: the model is of another kind, the clip cannot be read or has too few frames, or its size gives no whole latents.
    """
    from vision_models.video.contrasting import Condition
    from vision_models.video.latents import codec_of, image_condition, read_clip

    config, weights = transformer.config, next(transformer.parameters())
    frames, width, height = _sizes(folder, how)
    channels = int(config.out_channels or config.in_channels)
    beside = int(config.in_channels) - channels
    codec = codec_of(folder, channels, weights.device)
    if beside not in (0, channels + codec.strides[0]):
        raise UserError(
            f"{folder} takes {channels + beside} channels and gives {channels}: neither a text-to-video model nor "
            f"an image-to-video model, which takes {2 * channels + codec.strides[0]}",
            "apply_vmoba serves other kinds in your own pipeline",
        )
    _need_whole_latents(frames, width, height, codec.strides, config.patch_size)
    pictures = read_clip(clip, frames, height, width)
    latents = codec.encode(pictures).to(weights)
    condition = Condition(
        latents.new_zeros(1, 16, int(config.text_dim)),
        image_condition(codec, pictures, latents) if beside else None,
        latents.new_zeros(1, 257, int(config.image_dim)) if config.image_dim else None,
    )
    return Scene(codec, latents, condition)


def _figures(clip: Path, scene: Scene, found: Contrast, patch: Sequence[int]) -> dict[str, Any]:
    """The figures of a contrast, and what they do not hold for."""
    grid = [int(side) // int(size) for side, size in zip(scene.latents.shape[2:], patch, strict=True)]
    notes = [scene.codec.note] if scene.codec.note else []
    if scene.condition.beside is not None:
        notes.append("the image is the clip's first frame")
    if scene.latents.shape[1] != 3:
        zeros = "the text is" if scene.condition.image is None else "the text and the image's embedding are"
        notes.append(f"{zeros} zeros: no encoder is run")
    return {
        "clip": clip.name,
        "grid": grid,
        "tokens": grid[0] * grid[1] * grid[2],
        "difference": found.error,
        "density": sum(layer.density for layer in found.layers) / len(found.layers),
        "recall": sum(layer.recall for layer in found.layers) / len(found.layers),
        "seconds": found.seconds,
        "note": "; ".join(notes),
    }


def _write(out: Path, found: Contrast, values: Mapping[str, Any]) -> Contrasted:
    """Writes the folder, whole or not at all."""
    from core_runtime.folders import writing
    from core_runtime.videos import write_video
    from vision_models.actions.reports.timeline import save
    from vision_models.video.contrasting import draw_contrast

    layers = [vars(layer) for layer in found.layers]
    names = {"picture": "contrast.png", "full attention": "full.mp4", "VMoBA": "vmoba.mp4"}
    title = f"{values['clip']}: full attention and VMoBA from the same noise"
    with writing(out) as part:
        part.mkdir()
        save(draw_contrast(found, title), part / names["picture"])
        for kind, latents in (("full attention", found.full), ("VMoBA", found.vmoba)):
            pictures = found.codec.pictures(latents)
            larger = max(1, 256 // pictures.shape[1])
            write_video(part / names[kind], pictures.repeat(larger, 1).repeat(larger, 2), 8)
        content = {"values": values, "layers": layers, "files": names}
        (part / "contrast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Contrasted(values, layers, {name: out / file for name, file in names.items()})


def _read_again(out: Path) -> Contrasted:
    """What an earlier run wrote."""
    content = json.loads((out / "contrast.json").read_text(encoding="utf-8"))
    files = {name: out / file for name, file in content["files"].items()}
    return Contrasted(content["values"], content["layers"], files)


def _need_whole_latents(frames: int, width: int, height: int, strides: tuple[int, int], patch: Sequence[int]) -> None:
    """Refuses a clip that does not become whole latents, or whole tokens of them."""
    time, side = strides
    sides = side * int(patch[1]), side * int(patch[2])
    if (frames - 1) % time or height % sides[0] or width % sides[1]:
        whole = f"{time} n + 1 frames, " if time > 1 else ""
        raise UserError(
            f"{frames} frames of {width} × {height} are no latents of this Wan: {whole}a height of whole {sides[0]}s, "
            f"a width of whole {sides[1]}s",
            f"--frames {max(1, (frames - 1) // time) * time + 1} "
            f"--size {max(1, width // sides[1]) * sides[1]}x{max(1, height // sides[0]) * sides[0]}",
        )


def _sizes(folder: Path, how: ClipOptions) -> tuple[int, int, int]:
    """Frames, width and height: the options', else the model's own."""
    from vision_models.video.commands.profile import read_size
    from vision_models.video.model import read_config, transformer_folder

    place = transformer_folder(folder) or folder
    said = read_config(place) if (place / "config.json").is_file() else {}
    sides = {"frames": 17, "width": 128, "height": 96}  # a published model's folder states none
    for name, usual in sides.items():
        sides[name] = read_field(said, name, int, where=place / "config.json", default=usual, low=1)
    frames = how.frames or sides["frames"]
    width, height = sides["width"], sides["height"]
    if how.size is not None:
        width, height = read_size(how.size)
    return frames, width, height


def predict(
    clip: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    vmoba: VMoBAOptions = VMoBAOptions(),
    how: ClipOptions = ClipOptions(),
    device: Device = "auto",
    workers: Workers = 0,
    threads: Threads = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Contrasted:
    """Denoises a clip with VMoBA, beside full attention: the same as 'contrast'.

    Example: vision-models video predict clip.mp4 --model run/model --out predictions

    Args:
        clip: a video.
    """
    return contrast(
        clip,
        model=model,
        out=out,
        vmoba=vmoba,
        how=how,
        device=device,
        workers=workers,
        threads=threads,
        seed=seed,
        overwrite=overwrite,
    )
