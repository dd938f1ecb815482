"""SAM's checkpoints into MapSAM at any image size, and adapter files that hold everything but the frozen encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from core_attention.checkpoints.folders import read_official
from core_attention.systems import StateError
from remote_sensing.maps.model.dora import DoRAQKV
from remote_sensing.maps.model.mapsam import MapSAM, is_adapter
from remote_sensing.maps.model.sam import VARIANTS

_REL = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_[hw]$")
_NEW = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")


def resized_positions(table: Float[Tensor, "1 t t d"], side: int) -> Float[Tensor, "1 s s d"]:
    """The table of absolute positions at another grid, bilinear."""
    if table.shape[1] == side:
        return table
    grid = F.interpolate(table.permute(0, 3, 1, 2), (side, side), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1)


def resized_relative(table: Float[Tensor, "l d"], length: int) -> Float[Tensor, "m d"]:
    """A table of relative positions at another length, bilinear over (length, channels) as published."""
    if len(table) == length:
        return table
    return F.interpolate(table[None, None], (length, table.shape[1]), mode="bilinear", align_corners=False)[0, 0]


def resized_tables(state: Mapping[str, Tensor], side: int, global_blocks: Sequence[int]) -> dict[str, Tensor]:
    """A SAM state dict whose tables fit a grid of `side` cells; those of window blocks stay."""
    made = dict(state)
    for key, tensor in state.items():
        found = _REL.match(key)
        if key == "image_encoder.pos_embed":
            made[key] = resized_positions(tensor, side)
        elif found and int(found[1]) in global_blocks:
            made[key] = resized_relative(tensor, 2 * side - 1)
    return made


def plain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of DataParallel and of the wrapping module."""
    return {re.sub(r"^(module\.|sam\.)+", "", key): tensor for key, tensor in state.items()}


def variant_of(state: Mapping[str, Tensor]) -> str:
    """ "vit_b", "vit_l" or "vit_h", by the width of a SAM state dict.

    Raises:
        StateError: no SAM state dict.
    """
    table = plain_keys(state).get("image_encoder.pos_embed")
    widths = {VARIANTS[n].get("embed_dim", 768): n for n in VARIANTS}
    if table is None or table.shape[-1] not in widths:
        raise StateError("not a checkpoint of SAM ViT-B, L or H: it has no image_encoder.pos_embed of a known width")
    return widths[table.shape[-1]]


def load_sam(model: MapSAM, state: Mapping[str, Tensor], *, init_mask_token: str = "new") -> None:
    """Starts MapSAM from a SAM state dict (``sam_vit_*.pth``), strictly: every key of SAM has its place or is one of the parts that start anew.

    Args:
        init_mask_token: "new" (mask tokens, hypernetworks and quality head start at random, as published) or "sam0" (SAM's own single-mask
            token and its hypernetwork, repeated for each class).

    Raises:
        StateError: missing, unexpected or misshapen keys, each named.
    """
    if init_mask_token not in ("new", "sam0"):
        raise ValueError(f"init_mask_token is 'new' or 'sam0', got {init_mask_token!r}")
    config = model.config
    given = resized_tables(plain_keys(state), config.image_size // 16, config.global_attn_indexes)
    ours = model.state_dict()
    renamed = {k.replace(".attn.qkv.", ".attn.qkv."): v for k, v in given.items()}
    taken = {k: v for k, v in renamed.items() if not k.startswith(_NEW)}
    wanted = {
        k for k in ours if not k.startswith((*_NEW, "spgen")) and not k.rpartition(".")[2].startswith(("m_", "lora_"))
    }
    if init_mask_token == "sam0":
        for k, tensor in _single_mask(renamed, config.num_classes).items():
            taken[k] = tensor
            wanted.add(k)
    problems = [f"missing {k}" for k in sorted(wanted - taken.keys())]
    problems += [f"unexpected {k}" for k in sorted(taken.keys() - wanted)]
    problems += [
        f"{k} is {list(taken[k].shape)}, expected {list(ours[k].shape)}"
        for k in sorted(wanted & taken.keys())
        if taken[k].shape != ours[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise StateError(f"the SAM checkpoint does not fit: {'; '.join(problems[:6])}{more}")
    model.load_state_dict(taken, strict=False)
    for block in model.image_encoder.blocks:
        if isinstance(block.attn.qkv, DoRAQKV):
            block.attn.qkv.reset_magnitudes()


def _single_mask(state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """SAM's token 0 and what belongs to it, once for each class."""
    made = {"mask_decoder.mask_tokens.weight": state["mask_decoder.mask_tokens.weight"][:1].expand(classes, -1).clone()}
    prefix = "mask_decoder.output_hypernetworks_mlps."
    for key, tensor in state.items():
        if key.startswith(f"{prefix}0."):
            made |= {key.replace(f"{prefix}0.", f"{prefix}{i}."): tensor for i in range(classes)}
    return made


def adapter_state(model: MapSAM) -> dict[str, Tensor]:
    """What an adapter file holds: adapters, coarse heads, prompt encoder and mask decoder (231 tensors of ViT-B, one class)."""
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if is_adapter(k)}


def save_adapter(model: MapSAM, path: Path) -> Path:
    """Writes an adapter file: ``.safetensors``, or torch's format for the official code by any other ending."""
    from core_runtime.folders import writing

    with writing(path) as temporary:
        if path.suffix == ".safetensors":
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(adapter_state(model), temporary, metadata={"format": "pt"})
            temporary.chmod(
                mode
            )  # safetensors writes files that only their owner can read; a group shares its adapters
        else:
            torch.save(adapter_state(model), temporary)
    return path


def load_adapter(model: MapSAM, source: Path | Mapping[str, Tensor]) -> None:
    """Loads an adapter file (also one of the official code, with or without the prefixes of DataParallel), strictly.

    Raises:
        StateError: missing, unexpected or misshapen keys, each named.
        OSError: the file cannot be read.
        ValueError: it is no file of tensors.
    """
    state = plain_keys(source if isinstance(source, Mapping) else read_official(source))
    wanted = {k: v.shape for k, v in model.state_dict().items() if is_adapter(k)}
    problems = [f"missing {k}" for k in sorted(wanted.keys() - state.keys())]
    problems += [f"unexpected {k}" for k in sorted(state.keys() - wanted.keys())]
    problems += [
        f"{k} is {list(state[k].shape)}, expected {list(shape)}"
        for k, shape in wanted.items()
        if k in state and state[k].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise StateError(f"the adapter does not fit: {'; '.join(problems[:6])}{more}")
    model.load_state_dict(state, strict=False)
