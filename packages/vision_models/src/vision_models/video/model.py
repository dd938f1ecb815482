"""A Wan transformer as a model folder: built by diffusers, small ones from scratch, published ones from their folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core_runtime.errors import UserError, clean
from core_runtime.fields import read_field
from vision_models.video.flops import WanSizes
from vision_models.video.formats import claim


@dataclass(frozen=True)
class WanConfig:
    """The sizes of a small Wan, by diffusers' names.

    Attributes:
        num_layers, num_attention_heads, attention_head_dim, ffn_dim: of the transformer.
        in_channels: of the latents; 3: frames themselves.
        text_dim, text_tokens: of the condition, which small models get as zeros.
        patch_size: (time, height, width) of a token.
        frames, height, width: of the latents that it is trained on.
    """

    num_layers: int = 3
    num_attention_heads: int = 2
    attention_head_dim: int = 24
    ffn_dim: int = 96
    in_channels: int = 3
    text_dim: int = 8
    text_tokens: int = 2
    patch_size: tuple[int, int, int] = (1, 2, 2)
    frames: int = 12
    height: int = 24
    width: int = 32


class SmallWan(nn.Module):
    """diffusers' Wan transformer of small sizes; ``forward(latents, timestep)`` predicts the flow.

    Raises:
        UserError: diffusers is not installed.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        values = asdict(config)
        self.text = values.pop("text_tokens"), config.text_dim
        for name in ("frames", "height", "width"):
            del values[name]
        self.transformer = _wan_class()(out_channels=config.in_channels, freq_dim=32, rope_max_seq_len=128, **values)

    def forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The flow of (batch, channels, time, height, width) at timesteps from 0 to 1000."""
        text = latents.new_zeros(len(latents), *self.text)
        return self.transformer(latents, timestep, text, return_dict=False)[0]


def need_diffusers() -> Any:
    """diffusers, and accelerate, without which it loads no Wan.

    Raises:
        UserError: one is not installed.
    """
    try:
        import accelerate  # noqa: F401
        import diffusers
    except ImportError as error:
        raise UserError(
            f"Wan models need diffusers and accelerate; {error.name} is not installed",
            f"pip install 'attention-suite-vision-models[video]' (or pip install {error.name})",
        ) from None
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _wan_class() -> Any:
    return need_diffusers().WanTransformer3DModel


def transformer_folder(path: Path) -> Path | None:
    """The folder of the transformer inside a model's or a pipeline's folder; None where there is none of Wan's kind."""
    for place in (path, path / "transformer"):
        config = place / "config.json"
        if claim(config) is not None:
            return place
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of a Wan, by diffusers' names."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return dict(content.get("config", content))


def read_sizes(folder: Path) -> WanSizes:
    """The sizes of a Wan's config.json; its latents are those of the VAE that goes with so many channels.

    Raises:
        UserError: a size is missing, of another type or not above 0; it is named.
    """
    said = read_config(folder)
    settings: dict[str, Any] = {"where": f"{folder}/config.json", "hint": "correct that line, or copy the folder again"}
    names = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "in_channels", "text_dim")
    layers, heads, head_dim, ffn, channels, _ = [read_field(said, name, int, low=1, **settings) for name in names]
    for name in ("out_channels", "image_dim"):  # null: as many as go in, and no image
        read_field(said, name, int, default=None, low=1, **settings)
    patch = read_field(said, "patch_size", list, **settings)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in patch)
    if len(patch) != 3 or not whole:
        raise UserError(
            f"{folder}/config.json: patch_size is {patch}, expected three whole numbers above 0",
            "correct that line, or copy the folder again",
        )
    time, height, width = patch
    stride = {3: (1, 1, 1), 48: (4, 16, 16)}.get(channels, (4, 8, 8))
    return WanSizes(layers, heads * head_dim, heads, ffn, (time, height, width), channels, stride)


def load_transformer(path: Path) -> Any:
    """The transformer of a folder: ours, or diffusers' own.

    Raises:
        UserError: it holds none of Wan's kind, or it cannot be loaded.
    """
    folder = transformer_folder(path)
    if folder is None:
        kind = ""
        config = path / "config.json"
        if config.is_file():
            kind = " (its config.json describes another model)"
            try:
                json.loads(config.read_text(encoding="utf-8"))
            except ValueError:
                kind = " (its config.json is damaged)"
        raise UserError(
            f"{path} holds no Wan transformer{kind}",
            "expected a folder saved by diffusers, of WanTransformer3DModel or a pipeline with one, or a run's model",
        )
    read_sizes(folder)  # a field that cannot be is named, instead of what becomes of it
    if (folder / "model.safetensors").is_file():
        return load_small(folder).transformer
    cls: Any = need_diffusers().WanTransformer3DModel
    try:
        return cls.from_pretrained(str(folder), local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{folder} cannot be loaded: {clean(str(error))[:200]}", "copy the folder again") from None


def load_small(model: str | Path) -> SmallWan:
    """A model that 'vision-models video train' wrote.

    Raises:
        UserError: it holds another class, or is damaged.
    """
    from core_attention.checkpoints.folders import load_model

    try:
        return load_model(model, SmallWan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(str(error), "'vision-models video train' makes a model folder") from None
