"""MVPFormer's weights in three namings: ours, the published one (IBM), and braindecode's on the hub; conversions between them.

The published checkpoints come in two files: ``base`` (encoder, decoder, generative head) and a head file such as ``swec`` (LoRA and
seizure head), which are joined for detection. braindecode's have LoRA merged into the decoder and lack what is never used (`ln_2`,
`seizure_embeddings`).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core_attention.checkpoints.folders import renamed
from core_attention.systems import StateDict, StateError
from ieeg.model.layouts import Layout
from ieeg.model.mvpformer import MVPFormerConfig
from ieeg.model.wavelets import band_lengths

_FROM_OFFICIAL = {
    r"^mvpformer\.h\.": "decoder.blocks.",
    r"^mvpformer\.": "decoder.",
    r"^head\.head\.": "head.",
}
_TO_OFFICIAL = {
    r"^decoder\.blocks\.": "mvpformer.h.",
    r"^decoder\.": "mvpformer.",
    r"^head\.": "head.head.",
}
_FROM_BRAINDECODE = {
    r"^patch_embed\.": "encoder.",
    r"^(positional_embedding|channel_embedding|blocks|ln_f)\.": r"decoder.\1.",
    r"^final_layer\.": "head.",
}
_TO_BRAINDECODE = {r"^encoder\.": "patch_embed.", r"^decoder\.": "", r"^head\.": "final_layer."}

# Constants that official checkpoints may contain, a loss's class weights, and fixed filters of braindecode's encoder
IGNORED = ("*time_bias", "*masked_bias", "class_loss.weight", "patch_embed._filters", "patch_embed.filters")
_IGNORED = re.compile(r"(time_bias|masked_bias|^class_loss\.weight|^patch_embed\._?filters)$")


def layout_of(state: Mapping[str, Any]) -> Layout:
    """The naming of a state dict.

    Raises:
        ValueError: it is none of the three.
    """
    if any(key.startswith("mvpformer.") for key in state):
        return "official"
    if "patch_embed.proj.weight" in state:
        return "braindecode"
    if "decoder.ln_f.weight" in state:
        return "ours"
    raise ValueError("these are not MVPFormer weights: they have keys of neither naming (mvpformer.…, patch_embed.…)")


def to_ours(state: Mapping[str, Tensor]) -> StateDict:
    """A state dict of any naming under our keys; what a braindecode file lacks (and nothing uses) is filled with ones and zeros.

    Raises:
        ValueError: not MVPFormer weights.
    """
    layout = layout_of(state)
    weights = _without_constants(state)
    if layout == "ours":
        return weights
    if layout == "official":
        return renamed(weights, _FROM_OFFICIAL)
    ours = renamed(weights, _FROM_BRAINDECODE)
    for key in list(ours):
        if key.endswith(".ln_1.weight"):
            ours.setdefault(key.replace("ln_1", "ln_2"), torch.ones_like(ours[key]))
    segment = segment_of(ours["encoder.ln.weight"].shape[0])
    ours.setdefault("seizure_embeddings", ours["encoder.ln.weight"].new_zeros(3, segment))
    return ours


def _without_constants(state: Mapping[str, Tensor]) -> StateDict:
    """A state dict without the entries of `IGNORED`, which are not trained."""
    return {key: tensor for key, tensor in state.items() if not _IGNORED.search(key)}


def to_layout(state: Mapping[str, Tensor], layout: Layout, *, buffers: bool = False) -> StateDict:
    """Our state dict under another naming.

    Args:
        layout: the naming.
        buffers: official naming: also write the two constant buffers of every layer.

    Raises:
        ValueError: braindecode's naming has no place for LoRA: merge it first (`ieeg.model.lora.merged`).
    """
    if layout == "ours":
        return dict(state)
    if layout == "official":
        official = renamed(state, _TO_OFFICIAL)
        # The published loader is strict, and its layers have a causal mask and a "minus infinity" as buffers.
        if buffers:
            rows = official["mvpformer.positional_embedding.weight"].shape[0]
            lower = torch.ones(rows, rows, dtype=torch.bool).tril()[None, None]
            for key in list(official):
                if key.endswith("attn.attn_bias"):
                    official[key.replace("attn_bias", "time_bias")] = lower.clone()
                    official[key.replace("attn_bias", "masked_bias")] = torch.tensor(-1e4)
        return official
    if any("lora_" in key for key in state):
        raise ValueError("braindecode's naming has no place for LoRA: merge it into the weights first")
    used = {}
    for key, tensor in state.items():
        never_used = key.endswith("ln_2.weight") or key == "seizure_embeddings"
        if not never_used:
            used[key] = tensor
    return renamed(used, _TO_BRAINDECODE)


def joined(base: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> StateDict:
    """The two published files of a detector as one: the base's encoder and decoder, the head file's LoRA and head.

    What the head file holds of the base as well (some do) takes precedence. Both under our keys.

    Raises:
        ValueError: the head file holds neither LoRA nor a head, or does not belong to a detector.
    """
    if "head.weight" not in head:
        raise ValueError("the head file holds no head.head.weight")
    # a generative head maps E to E: it is square
    if head["head.weight"].shape[0] == head["head.weight"].shape[1]:
        raise ValueError(
            "the head file holds a generative head; give the file with the seizure head (with swec in its name)"
        )
    without_head = {key: tensor for key, tensor in base.items() if not key.startswith("head.")}
    return {**without_head, **head}


def head_keys(state: Mapping[str, Tensor]) -> StateDict:
    """A head file's weights, under official keys or ours, under ours: LoRA, head, and anything else in it."""
    return renamed(_without_constants(state), _FROM_OFFICIAL)


def segment_of(coefficients: int) -> int:
    """The segment length whose transform has this number of coefficients: the published one if it fits, else the longest, which is even.

    Raises:
        ValueError: no length has this number.
    """
    # each level of the transform pads a little: there are up to some 100 more coefficients than samples
    lengths = [2560, *range(coefficients, max(0, coefficients - 128), -1)]
    for length in lengths:
        if sum(band_lengths(length)) == coefficients:
            return length
    raise ValueError(f"no segment length has {coefficients} wavelet coefficients")


def config_of(state: Mapping[str, Tensor], *, dim: int | None = None, **known: Any) -> MVPFormerConfig:
    """The configuration of a state dict under our keys, inferred from its shapes.

    Args:
        dim: D, the width of a head, which the shapes do not tell; default: that of the published size with this width, else 16.
        known: further known values (lora_alpha, scale_by_layer …).

    Raises:
        ValueError: shapes that do not fit an MVPFormer.
    """
    try:
        width = state["decoder.ln_f.weight"].shape[0]
        first = "decoder.blocks.0."
        inner = state[first + "attn.position_net.weight"].shape[0]
        layers = sum(key.endswith("attn.attn_bias") for key in state)
        dim = dim or {768: 64, 2048: 128}.get(width) or 16
        if width % dim or inner % dim:
            raise ValueError(f"heads of width {dim} do not divide {width} and {inner}: give their width")
        lora_rank, classes = 0, 0
        low_rank = state.get(first + "attn.q_attn.lora_A")
        if low_rank is not None:
            lora_rank = low_rank.shape[0]
        head = state.get("head.weight")
        if head is not None and head.shape[0] != width:  # a generative head is square, E to E
            classes = head.shape[0]
        if "seizure_embeddings" in state:
            segment = state["seizure_embeddings"].shape[1]
        else:
            segment = segment_of(state["encoder.ln.weight"].shape[0])
        sizes = {
            "width": width,
            "layers": layers,
            "heads": width // dim,
            "kv_heads": inner // dim,
            "inner": state[first + "mlp.gate_proj.weight"].shape[0],
            "positions": state["decoder.positional_embedding.weight"].shape[0],
            "channels": state["decoder.channel_embedding.weight"].shape[0],
            "lora_rank": lora_rank,
            "segment": segment,
            "classes": classes,
        }
    except (KeyError, IndexError) as error:
        raise StateError(f"the state dict lacks {error}") from None
    return MVPFormerConfig(**{**sizes, **known})
