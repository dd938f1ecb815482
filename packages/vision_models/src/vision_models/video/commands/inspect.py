"""``vision-models video inspect``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings


def inspect(path: Path, /) -> Findings:
    """Reports whether a folder holds a Wan model that VMoBA fits, its sizes, and what it costs at a usual size.

    Example: vision-models video inspect Wan2.1-T2V-1.3B-Diffusers/

    Args:
        path: a folder of a Wan transformer or pipeline, or its config.json.
    """
    return examine(path)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    return examine(path, pictures=True)


def examine(path: Path, *, pictures: bool = False) -> Findings:
    """Examines a model.

    Raises:
        UserError: it is not Wan-like.
    """
    from vision_models.video.commands.profile import profile, sizes_of
    from vision_models.video.model import read_config, transformer_folder

    if not path.exists():
        raise UserError(f"no such file or folder: {path}", "give the folder of a Wan model")
    folder = path.parent if path.name == "config.json" else path
    place = transformer_folder(folder)
    if place is None and folder.is_dir():
        # 'sample' writes its model beside its clips
        inside = [each for each in sorted(folder.iterdir()) if transformer_folder(each) is not None]
        if len(inside) == 1:
            folder = inside[0]
            place = transformer_folder(folder)
    if place is None:
        raise UserError(
            f"{path} is not built like Wan", "expected a folder saved by diffusers, of WanTransformer3DModel"
        )
    sizes, notes = sizes_of(str(place))
    said = read_config(place)
    details: dict[str, Any] = {
        "layers": sizes.layers,
        "width": f"{sizes.dim} ({sizes.heads} heads)",
        "latents": f"{sizes.channels} channels, patches of {' × '.join(map(str, sizes.patch))}",
        "kind": "image to video" if said.get("image_dim") else "text to video",
    }
    small = sizes.channels == 3
    size, frames = ("32x24", 12) if small else ("832x480", 81)
    cost = profile(str(place), size=size, frames=frames)
    full, ours = cost.flops["full attention"], cost.flops["VMoBA (these blocks)"]
    details[f"at {size}, {frames} frames"] = (
        f"{cost.values['tokens']:,} tokens; {full / ours:.2f} × fewer operations with VMoBA"
    )
    drawn = []
    if pictures:
        drawn.append((_draw(str(place), small), "Operations of one forward by the length of the video."))
    shown = quote(str(folder))
    return Findings(
        title=folder.name,
        kind="video transformer built like Wan",
        summary=f"{sizes.layers} layers of width {sizes.dim}",
        details=details,
        warnings=notes,
        next_commands=[f"vision-models video profile {shown} --size {size} --frames {frames}"],
        pictures=drawn,
    )


def _draw(model: str, small: bool) -> Any:
    from matplotlib.figure import Figure

    from vision_models.video.commands.profile import profile

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    lengths = range(5, 66, 12) if small else range(17, 162, 16)
    rows = [profile(model, size="64x48" if small else "832x480", frames=frames) for frames in lengths]
    for kind in ("full attention", "VMoBA (these blocks)"):
        tokens = [row.values["tokens"] for row in rows]
        axes.plot(tokens, [row.flops[kind] / 1e12 for row in rows], marker=".", label=kind)
    axes.set(xlabel="tokens", ylabel="TFLOPs")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
