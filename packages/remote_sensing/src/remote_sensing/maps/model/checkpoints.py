"""SAM's checkpoints for MapSAM at any image size, and adapter files, which hold everything but the frozen encoder."""

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
# Parts of SAM's decoder that MapSAM starts anew, since their shapes depend on the number of classes.
_NEW = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")


def resized_positions(table: Float[Tensor, "1 t t d"], side: int) -> Float[Tensor, "1 s s d"]:
    """The table of absolute positions for another grid, bilinear."""
    if table.shape[1] == side:
        return table
    grid = F.interpolate(table.permute(0, 3, 1, 2), (side, side), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1)


def resized_relative(table: Float[Tensor, "l d"], length: int) -> Float[Tensor, "m d"]:
    """A table of relative positions for another length, bilinear over (length, channels) as published."""
    if len(table) == length:
        return table
    return F.interpolate(table[None, None], (length, table.shape[1]), mode="bilinear", align_corners=False)[0, 0]


def resized_tables(state: Mapping[str, Tensor], side: int, global_blocks: Sequence[int]) -> dict[str, Tensor]:
    """A SAM state dict whose tables fit a grid of `side` cells; those of window blocks stay, since windows keep their size."""
    resized = dict(state)
    for key, tensor in state.items():
        relative = _REL.match(key)
        if key == "image_encoder.pos_embed":
            resized[key] = resized_positions(tensor, side)
        elif relative and int(relative[1]) in global_blocks:
            resized[key] = resized_relative(tensor, 2 * side - 1)
    return resized


def plain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of DataParallel and of the wrapping module."""
    return {re.sub(r"^(module\.|sam\.)+", "", key): tensor for key, tensor in state.items()}


def variant_of(state: Mapping[str, Tensor]) -> str:
    """ "vit_b", "vit_l" or "vit_h", by the width of a SAM state dict.

    Raises:
        StateError: not a SAM state dict.
    """
    table = plain_keys(state).get("image_encoder.pos_embed")
    variant_of_width = {sizes.get("embed_dim", 768): name for name, sizes in VARIANTS.items()}
    if table is None or table.shape[-1] not in variant_of_width:
        raise StateError("not a checkpoint of SAM ViT-B, L or H: it has no image_encoder.pos_embed of a known width")
    return variant_of_width[table.shape[-1]]


def load_sam(model: MapSAM, state: Mapping[str, Tensor], *, init_mask_token: str = "new") -> None:
    """Starts MapSAM from a SAM state dict (``sam_vit_*.pth``), strictly: every key of SAM has its place or belongs to the parts that start anew.

    Args:
        init_mask_token: "new" (mask tokens, hypernetworks and quality head start at random, as published) or "sam0" (SAM's own single-mask
            token and its hypernetwork, repeated for each class).

    Raises:
        StateError: missing, unexpected or misshapen keys, each named.
    """
    if init_mask_token not in ("new", "sam0"):
        raise ValueError(f"init_mask_token is 'new' or 'sam0', got {init_mask_token!r}")
    config = model.config
    sam = resized_tables(plain_keys(state), config.image_size // 16, config.global_attn_indexes)
    ours = model.state_dict()
    weights = {key: tensor for key, tensor in sam.items() if not key.startswith(_NEW)}
    # what SAM must hold: all of ours but the parts that start anew, the coarse heads and the adapters
    expected: dict[str, torch.Size] = {}
    for key, tensor in ours.items():
        own = key.startswith((*_NEW, "spgen")) or key.rpartition(".")[2].startswith(("m_", "lora_"))
        if not own:
            expected[key] = tensor.shape
    if init_mask_token == "sam0":
        for key, tensor in _single_mask(sam, config.num_classes).items():
            weights[key] = tensor
            expected[key] = ours[key].shape
    _refuse_misfits(weights, expected, "the SAM checkpoint")
    model.load_state_dict(weights, strict=False)
    for block in model.image_encoder.blocks:
        if isinstance(block.attn.qkv, DoRAQKV):  # the adapters' magnitudes are norms of the weights just loaded
            block.attn.qkv.reset_magnitudes()


def _refuse_misfits(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size], what: str) -> None:
    """Refuses weights that are not exactly the expected ones.

    Raises:
        StateError: missing, unexpected or misshapen keys, the first six named.
    """
    problems = [f"missing {key}" for key in sorted(expected.keys() - weights.keys())]
    problems += [f"unexpected {key}" for key in sorted(weights.keys() - expected.keys())]
    for key in sorted(expected.keys() & weights.keys()):
        if weights[key].shape != expected[key]:
            problems.append(f"{key} is {list(weights[key].shape)}, expected {list(expected[key])}")
    if problems:
        more = ""
        if len(problems) > 6:
            more = f" and {len(problems) - 6} more"
        raise StateError(f"{what} does not fit: {'; '.join(problems[:6])}{more}")


def _single_mask(state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """SAM's token 0 and the parts that belong to it, once for each class."""
    tokens = state["mask_decoder.mask_tokens.weight"][:1].expand(classes, -1).clone()
    repeated = {"mask_decoder.mask_tokens.weight": tokens}
    prefix = "mask_decoder.output_hypernetworks_mlps."
    for key, tensor in state.items():
        if key.startswith(f"{prefix}0."):
            for number in range(classes):
                repeated[key.replace(f"{prefix}0.", f"{prefix}{number}.")] = tensor
    return repeated


def adapter_state(model: MapSAM) -> dict[str, Tensor]:
    """The content of an adapter file: adapters, coarse heads, prompt encoder and mask decoder (231 tensors for ViT-B, one class)."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items() if is_adapter(key)}


def save_adapter(model: MapSAM, path: Path) -> Path:
    """Writes an adapter file: ``.safetensors``, or with any other ending torch's format for the official code."""
    from core_runtime.folders import writing

    with writing(path) as temporary:
        if path.suffix == ".safetensors":
            # safetensors writes files that only their owner can read, but a group shares its adapters
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(adapter_state(model), temporary, metadata={"format": "pt"})
            temporary.chmod(mode)
        else:
            torch.save(adapter_state(model), temporary)
    return path


def load_adapter(model: MapSAM, source: Path | Mapping[str, Tensor]) -> None:
    """Loads an adapter file (perhaps of the official code, with or without the prefixes of DataParallel), strictly.

    Raises:
        StateError: missing, unexpected or misshapen keys, each named.
        OSError: the file cannot be read.
        ValueError: it is not a file of tensors.
    """
    if not isinstance(source, Mapping):
        source = read_official(source)
    state = plain_keys(source)
    expected = {key: tensor.shape for key, tensor in model.state_dict().items() if is_adapter(key)}
    _refuse_misfits(state, expected, "the adapter")
    model.load_state_dict(state, strict=False)
