"""Sentence attention block (Khoshsirat and Kambhamettu 2023), khoshsirat/embedding-attention-blocks."""

from __future__ import annotations

from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import channel_gate
from core_attention.mechanisms.sentence_attention.attention import SentenceAttention
from core_attention.registry.systems import Component, Config


def build(config: Config) -> SentenceAttention:
    options = {name: config[name] for name in ("use_image", "rescale") if name in config}
    return SentenceAttention(config["in_dim"], config["out_dim"], **options)


def run(module, inputs, *, config, mode):
    gate = module.gate(inputs["text"], inputs["image"])
    return {"image": channel_gate(inputs["image"], gate), "attention": gate}


components = {"SentenceAttention": Component(run=run, build=build, batch={"image": 0, "text": 0, "attention": 0})}
