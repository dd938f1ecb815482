"""Llama with visual attention redistribution under the published name, seilk/VisAttnSink (transformers 4.47.1, eager)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core_attention import capture
from core_attention.mechanisms.var_sink.official import rule_of
from core_attention.mechanisms.var_sink.pretrained import VisualAttentionRedistribution
from core_attention.systems import Component, Config

# facts about the recording, beside Llama's configuration
_FACTS = {"image_start", "image_len", "sink_dims", "tau", "rho", "summ", "p", "first_layer"}


def build(config: Config) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {key: value for key, value in config.items() if key not in _FACTS | {"rope_theta"}}
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    return LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope))


def run(module, inputs, *, config, mode):
    embeddings, steps = inputs["inputs_embeds"], inputs["decode_embeds"]
    length, layers = embeddings.shape[1], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    places = torch.arange(length, device=embeddings.device)
    start, stop = config["image_start"], config["image_start"] + config["image_len"]
    image = ((places >= start) & (places < stop))[None]
    outputs: dict[str, Any] = {"prefill_logits_without_var": module(inputs_embeds=embeddings).logits}
    edited = torch.zeros(layers, heads, length, dtype=torch.bool, device=embeddings.device)
    decoded = torch.zeros(len(steps), layers, heads, dtype=torch.bool, device=embeddings.device)
    redistribution = VisualAttentionRedistribution(
        module,
        dims=tuple(config["sink_dims"]),
        tau=config["tau"],
        rule=rule_of(config),
        first_layer=config.get("first_layer", 2),
        skip_last_layer=False,  # as the published code behaves
        image_mask=image,
    )
    names = [f"model.layers.{layer}.self_attn" for layer in range(layers)]
    with redistribution as var:
        with capture(module, layers=names) as maps:
            prefill = module(inputs_embeds=embeddings, use_cache=True, output_hidden_states=True)
        for layer, name in enumerate(names):
            outputs[f"prefill_attn_layer{layer}"] = maps[name]
            if "edited" in maps.kinds(name):
                edited[layer] = maps.all(name, "edited")[-1][0, :, :, 0] > 0
        sinks = [_sinks(var, layer, image) for layer in range(layers)]
        cache, logits = prefill.cache, []
        for step, embedding in enumerate(steps):
            with capture(module, layers=names) as maps:
                decoding = module(inputs_embeds=embedding[None], cache=cache, use_cache=True)
            logits.append(decoding.logits[0])
            for layer, name in enumerate(names):
                if "edited" in maps.kinds(name):
                    decoded[step, layer] = maps.all(name, "edited")[-1][0, :, 0, 0] > 0
        outputs[f"last_decode_attn_layer{layers - 1}"] = maps[names[-1]]
    outputs |= {
        "prefill_logits": prefill.logits,
        "hidden_in_last_layer": prefill.hidden_states[layers - 1],
        "edited_head_query_mask": edited,
        "sink_mask": torch.stack(sinks),
        "decode_logits": torch.stack(logits),
        "decode_edited_heads": decoded,
    }
    return outputs


def _sinks(var: VisualAttentionRedistribution, layer: int, image: Tensor) -> Tensor:
    """The sinks of a layer, (tokens,); none in layers out of reach."""
    sinks = var.sinks(layer)
    return torch.zeros_like(image[0]) if sinks is None else sinks[0]


components = {"TunedLlamaForCausalLM": Component(run=run, build=build, ignore=("*.rotary_emb.inv_freq",))}
