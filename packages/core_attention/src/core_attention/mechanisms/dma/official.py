"""Components of Doge: the kernel repository's Python reference, mask builder and attention layer."""

from core_attention.mechanisms.dma.attention import create_mask, dynamic_mask, dynamic_mask_attention
from core_attention.mechanisms.dma.layer import DynamicMaskAttention
from core_attention.registry.systems import Component, Config


def _boolean(inputs):
    return None if (mask := inputs.get("attention_mask")) is None else mask.bool()


def _attention(module, inputs, *, config, mode):
    q, k, v, bias = (inputs[name] for name in ("q", "k", "v", "attn_bias"))
    options = {"window": config["window_size"], "causal": config["is_causal"], "mask": _boolean(inputs)}
    out = dynamic_mask_attention(q, k, v, bias, scale=config.get("scaling"), **options)
    selection = dynamic_mask(bias, queries=q.shape[2], **options)
    selection = selection.expand(q.shape[0], max(selection.shape[1], k.shape[1]), -1, -1)
    return {"out": out.transpose(1, 2), "mask": selection}


def _mask(module, inputs, *, config, mode):
    selection = create_mask(
        inputs["attn_bias"],
        queries=config["query_len"],
        window=config["window_size"],
        mask=_boolean(inputs),
        kind=config.get("type", "topk"),
        block=config.get("block_size"),
    )
    return {"mask": selection}


def _build_layer(config: Config) -> DynamicMaskAttention:
    """The layer of transformers, which names its window `keep_window_size`, or that of the kernel repository."""
    transformers = "keep_window_size" in config
    return DynamicMaskAttention(
        config["hidden_size"],
        config["num_attention_heads"],
        num_kv_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim"),
        window=config.get("window_size", config.get("keep_window_size", 2048)),
        form="exp" if transformers else "log",
        selection="per_query" if transformers else "shared",
        bias=config.get("attention_bias", False),
        eps=config.get("rms_norm_eps", 1e-6),
        theta=config.get("rope_theta", 10000.0),
        dropout=config.get("attention_dropout", 0.0),
    )


def _layer(module: DynamicMaskAttention, inputs, *, config, mode):
    x, mask = inputs["x"], _boolean(inputs)
    return {"y": module(x, mask=mask, positions=inputs.get("position_ids")), "kept": module.kept(x, mask=mask)}


components = {
    "dynamic_mask_attention": Component(run=_attention),
    "create_mask": Component(run=_mask),
    "DogeAttention": Component(run=_layer, build=_build_layer, batch={"x": 0, "y": 0}),
}
