"""Components of Doge: the kernel repository's Python reference, mask builder and attention layer."""

from core_attention.mechanisms.dma import create_mask, dynamic_mask, dynamic_mask_attention
from core_attention.mechanisms.dma_layer import DynamicMaskAttention
from core_attention.systems import Component, Config, System


def _attention(module, inputs, *, config, mode):
    q, k, v, bias = (inputs[name] for name in ("q", "k", "v", "attn_bias"))
    options = {"window": config["window_size"], "causal": config["is_causal"], "mask": inputs.get("attention_mask")}
    out = dynamic_mask_attention(q, k, v, bias, scale=config.get("scaling"), **options)
    kept = dynamic_mask(bias, queries=q.shape[2], **options)
    kept = kept.expand(q.shape[0], max(kept.shape[1], k.shape[1]), -1, -1)
    return {"out": out.transpose(1, 2), "mask": kept}


def _mask(module, inputs, *, config, mode):
    kept = create_mask(
        inputs["attn_bias"],
        queries=config["query_len"],
        window=config["window_size"],
        mask=None if (mask := inputs.get("attention_mask")) is None else mask.bool(),
        kind=config.get("type", "topk"),
        block=config.get("block_size"),
    )
    return {"mask": kept}


def _build_layer(config: Config) -> DynamicMaskAttention:
    return DynamicMaskAttention(
        config["hidden_size"],
        config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim"),
        window=config.get("window_size", config.get("keep_window_size", 2048)),
        form="log",
        selection="shared",
        bias=config.get("attention_bias", False),
        eps=config.get("rms_norm_eps", 1e-6),
        theta=config.get("rope_theta", 10000.0),
        dropout=config.get("attention_dropout", 0.0),
    )


def _layer(module: DynamicMaskAttention, inputs, *, config, mode):
    x, mask = inputs["x"], inputs.get("attention_mask")
    mask = None if mask is None else mask.bool()
    return {"y": module(x, mask=mask, positions=inputs.get("position_ids")), "kept": module.kept(x, mask=mask)}


system = System(
    "dma",
    {
        "dynamic_mask_attention": Component(run=_attention),
        "create_mask": Component(run=_mask),
        "DogeAttention": Component(run=_layer, build=_build_layer, batch={"x": 0, "y": 0}),
    },
)
