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
    from vision_models.video.contrasting import contrast_clip, draw_contrast
    from vision_models.video.latents import as_pictures, latents_of, read_clip
    from vision_models.video.model import load_transformer

    use_threads(threads)
    transformer = load_transformer(folder).to(resolve_device(device))
    place = next(transformer.parameters())
    frames, width, height = _sizes(folder, how)
    channels = int(transformer.config.in_channels)
    if channels not in (3, 16, 48):
        raise UserError(
            f"{folder} takes {channels} channels: an image-to-video model needs its image, which this command has not",
            "contrast a text-to-video model; apply_vmoba serves the other kind in your own pipeline",
        )
    if channels != 3 and ((frames - 1) % 4 or width % 16 or height % 16):
        raise UserError(
            f"{frames} frames of {width} × {height} are no latents of Wan's: 4 n + 1 frames, sides of whole sixteens",
            "--frames 17 --size 128x96",
        )
    latents = latents_of(read_clip(clip, frames, height, width), channels).to(place)
    if transformer.config.image_dim:
        raise UserError(f"{folder} is an image-to-video model", "contrast a text-to-video model")
    text = latents.new_zeros(1, 16, int(transformer.config.text_dim))
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
        found = contrast_clip(transformer, latents, text, vmoba, level=how.noise, steps=how.steps, seed=seed)
        rows = [vars(row) for row in found.layers]
        patch = transformer.config.patch_size
        grid = [int(side) // int(size) for side, size in zip(latents.shape[2:], patch, strict=True)]
        note = ""
        if channels != 3:
            note = "a fixed projection stands in for the VAE: figures of attention hold for such latents, pictures are no frames"
        values = {
            "clip": clip.name,
            "grid": grid,
            "tokens": grid[0] * grid[1] * grid[2],
            "difference": found.error,
            "density": sum(row["density"] for row in rows) / len(rows),
            "recall": sum(row["recall"] for row in rows) / len(rows),
            "seconds": found.seconds,
            "note": note,
        }
        names = {"picture": "contrast.png", "full attention": "full.mp4", "VMoBA": "vmoba.mp4"}
        with writing(out) as part:
            part.mkdir()
            save(
                draw_contrast(found, f"{clip.name}: full attention and VMoBA from the same noise"),
                part / names["picture"],
            )
            for kind, latent in (("full attention", found.full), ("VMoBA", found.vmoba)):
                pictures = as_pictures(latent).repeat(4, 1).repeat(4, 2)
                write_video(part / names[kind], pictures, 8)
            content = {"values": values, "layers": rows, "files": names}
            (part / "contrast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Contrasted(values, rows, {name: out / file for name, file in names.items()})


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
