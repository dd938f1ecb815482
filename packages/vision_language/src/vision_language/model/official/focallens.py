"""FocalLens under the keys of its golden cases; its code was never published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from core_attention.systems import Component, Config
from vision_language.model.contrastive import contrastive_loss
from vision_language.model.focallens_clip import FocalLensCLIP, FocalLensConfig
from vision_language.model.focallens_mllm import FocalLensMLLM, FocalLensMLLMConfig


def clip_config(config: Config) -> dict:
    """transformers' configuration of the CLIP inside, from the cases' names."""
    heads = config.get("heads", 16)
    vision_width, text_width = config.get("vision_width", 1024), config.get("text_width", 768)
    layers = config.get("vision_layers", 24)
    return {
        "projection_dim": config.get("projection_dim", 768),
        "vision_config": {
            "hidden_size": vision_width,
            "intermediate_size": config.get("vision_hidden", 2 * vision_width),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": config.get("image_size", 336),
            "patch_size": config.get("patch_size", 14),
            "projection_dim": config.get("projection_dim", 768),
        },
        "text_config": {
            "vocab_size": config.get("vocab_size", 40),
            "hidden_size": text_width,
            "intermediate_size": config.get("text_hidden", 2 * text_width),
            "num_hidden_layers": config.get("text_layers", 2),
            "num_attention_heads": config.get("text_heads", heads),
            "max_position_embeddings": config.get("text_length", 12),
            "projection_dim": config.get("projection_dim", 768),
            "eos_token_id": config.get("eos_token_id", 49407),
            "bos_token_id": config.get("bos_token_id", 0),
            "pad_token_id": config.get("pad_token_id", 1),
        },
    }


def build_clip(config: Config) -> FocalLensCLIP:
    return FocalLensCLIP(FocalLensConfig(clip_config(config), config.get("num_condition_tokens", 1)))


@dataclass(frozen=True, kw_only=True)
class CLIPComponent(Component):
    """The cases' configurations name only some sizes of CLIP; the others are read off the state dict's shapes."""

    def load(self, config: Config, official_state: Mapping[str, Tensor]) -> nn.Module:
        return super().load(_sizes(official_state) | dict(config), official_state)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    text, vision = "clip.text_model.", "clip.vision_model."
    sizes: dict[str, int] = {}
    for name, key, axis in (
        ("vocab_size", f"{text}embeddings.token_embedding.weight", 0),
        ("text_length", f"{text}embeddings.position_embedding.weight", 0),
        ("text_hidden", f"{text}encoder.layers.0.mlp.fc1.weight", 0),
        ("vision_hidden", f"{vision}encoder.layers.0.mlp.fc1.weight", 0),
    ):
        if key in state:
            sizes[name] = state[key].shape[axis]
    layers = {key.split(".layers.")[1].split(".")[0] for key in state if key.startswith(f"{text}encoder.layers.")}
    if layers:
        sizes["text_layers"] = len(layers)
    return sizes


def run_clip(module, inputs, *, config, mode):
    instruction = module.embed_text(inputs["instruction_ids"], inputs["instruction_mask"])
    text = module.embed_text(inputs["output_ids"], inputs["output_mask"])
    image = module.embed_image(inputs["pixel_values"], instruction)
    logits = module.scale * image @ text.T
    return {
        "condition_embeds": instruction,
        "condition_tokens": module.condition(instruction),
        "conditional_image_embeds": image,
        "plain_clip_image_embeds": module.embed_image(inputs["pixel_values"]),
        "text_embeds": text,
        "logits_per_image": logits,
        "loss": contrastive_loss(image, text, module.scale).total,
    }


def build_mllm(config: Config) -> FocalLensMLLM:
    llava = {
        "vision_config": dict(config["vision"]),
        "text_config": {"model_type": "llama", **config["text"]},
        "image_token_index": config["image_token_index"],
        "image_seq_length": config.get("image_seq_length", 576),
        "vision_feature_layer": config.get("vision_feature_layer", -2),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
    }
    return FocalLensMLLM(FocalLensMLLMConfig(llava, config["readout_token_id"], config["readout_dim"]))


def run_mllm(module, inputs, *, config, mode):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = module.hidden(ids, mask, inputs["pixel_values"])
    return {
        "last_hidden_state": hidden * mask[..., None],
        "conditional_image_embeds": module.read_out(hidden, ids),
    }


def run_loss(module, inputs, *, config, mode):
    scale = 1 / config.get("temperature", 0.05)
    image, text = F.normalize(inputs["image"], dim=-1), F.normalize(inputs["text"], dim=-1)
    loss = contrastive_loss(image, text, scale)
    masked = contrastive_loss(image, text, scale, output_id=inputs["output_id"])
    return {"loss": loss.total, "loss_i2t": loss.image_to_text, "loss_masked_duplicates": masked.total}


components = {
    "FocalLensCLIP": CLIPComponent(run=run_clip, build=build_clip, ignore=("*.position_ids",)),
    "FocalLensMLLM": Component(
        run=run_mllm,
        build=build_mllm,
        ignore=("*.position_ids", "*.inv_freq"),
        unused=("llava.lm_head.weight",),  # an embedding is read out before words are predicted
    ),
    "contrastive_loss": Component(run=run_loss),
}
