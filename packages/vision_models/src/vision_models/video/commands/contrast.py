"""``vision-models video contrast``, and ``predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
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
from vision_models.video.commands.evaluate import layer_lines
from vision_models.video.options import VMoBAOptions


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
    from core_runtime.folders import writing
    from core_runtime.videos import write_video
    from vision_models.actions.reports.timeline import save
    from vision_models.video.contrasting import Condition, contrast_clip, draw_contrast
    from vision_models.video.latents import codec_of, image_condition, read_clip
    from vision_models.video.model import load_transformer

    use_threads(threads)
    transformer = load_transformer(folder).to(resolve_device(device))
    place = next(transformer.parameters())
    frames, width, height = _sizes(folder, how)
    channels = int(transformer.config.out_channels or transformer.config.in_channels)
    beside = int(transformer.config.in_channels) - channels
    codec = codec_of(folder, channels, place.device)
    if beside not in (0, channels + codec.strides[0]):
        raise UserError(
            f"{folder} takes {channels + beside} channels and gives {channels}: neither a text-to-video model nor "
            f"an image-to-video model, which takes {2 * channels + codec.strides[0]}",
            "apply_vmoba serves other kinds in your own pipeline",
        )
    _need_whole_latents(frames, width, height, codec.strides, transformer.config.patch_size)
    read = read_clip(clip, frames, height, width)
    latents = codec.encode(read).to(place)
    told = Condition(
        latents.new_zeros(1, 16, int(transformer.config.text_dim)),
        image_condition(codec, read, latents) if beside else None,
        latents.new_zeros(1, 257, int(transformer.config.image_dim)) if transformer.config.image_dim else None,
    )
    key = {
        "input": identity(clip),
        "model": model_identity(folder),
        "options": flat(vmoba=vmoba, how=how),
        "seed": seed,
    }
    if not overwrite and out.exists():
        if is_done(out, key):
            content = json.loads((out / "contrast.json").read_text(encoding="utf-8"))
            files = {name: out / file for name, file in content["files"].items()}
            return Contrasted(content["values"], content["layers"], files)
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another folder")
    with begun(out, key):
        found = contrast_clip(transformer, latents, told, vmoba, codec, level=how.noise, steps=how.steps, seed=seed)
        rows = [vars(row) for row in found.layers]
        patch = transformer.config.patch_size
        grid = [int(side) // int(size) for side, size in zip(latents.shape[2:], patch, strict=True)]
        notes = [codec.note] if codec.note else []
        if told.beside is not None:
            notes.append("the image is the clip's first frame")
        if channels != 3:
            zeros = "the text is" if told.image is None else "the text and the image's embedding are"
            notes.append(f"{zeros} zeros: no encoder is run")
        values = {
            "clip": clip.name,
            "grid": grid,
            "tokens": grid[0] * grid[1] * grid[2],
            "difference": found.error,
            "density": sum(row["density"] for row in rows) / len(rows),
            "recall": sum(row["recall"] for row in rows) / len(rows),
            "seconds": found.seconds,
            "note": "; ".join(notes),
        }
        names = {"picture": "contrast.png", "full attention": "full.mp4", "VMoBA": "vmoba.mp4"}
        with writing(out) as part:
            part.mkdir()
            save(
                draw_contrast(found, f"{clip.name}: full attention and VMoBA from the same noise"),
                part / names["picture"],
            )
            for kind, latent in (("full attention", found.full), ("VMoBA", found.vmoba)):
                pictures = codec.pictures(latent)
                larger = max(1, 256 // pictures.shape[1])
                write_video(part / names[kind], pictures.repeat(larger, 1).repeat(larger, 2), 8)
            content = {"values": values, "layers": rows, "files": names}
            (part / "contrast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Contrasted(values, rows, {name: out / file for name, file in names.items()})


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
    from vision_models.video.model import read_sizes, transformer_folder

    place = transformer_folder(folder) or folder
    said = read_sizes(place) if (place / "config.json").is_file() else {}
    frames = how.frames or int(said.get("frames", 17))
    width, height = int(said.get("width", 128)), int(said.get("height", 96))
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
