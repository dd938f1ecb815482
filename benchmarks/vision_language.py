"""What vision_language and its mechanisms cost, each beside what it stands in for; one thread, processor time.

    python benchmarks/vision_language.py                  everything
    python benchmarks/vision_language.py --only var       rows whose names begin so

Rows: var (redistribution at 632 tokens), decoding (one token behind them in a 7B layer), refam (the collector beside
the stock attention of a FLUX block), mllm (20 instructions on one picture), b7 (grounding beside its backbone).
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE.resolve()] + [
    str(HERE)
]  # this file is not the package `vision_language`

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from measure import parser, show  # noqa: E402

from core_attention.measuring.clock import paired  # noqa: E402

Rows = list[dict[str, Any]]


def timed(contestants: dict[str, Any], base: str, *, rounds: int) -> Rows:
    """Median processor time of each, and its ratio to `base`."""
    times = paired(contestants, rounds=rounds, clock=time.process_time)
    rows = []
    for name, each in times.items():
        middle, low, high = each.over(times[base])
        rows.append(
            {"what": name, "ms": round(each.median * 1e3, 1), f"over {base}": f"{middle:.2f} ({low:.2f}–{high:.2f})"}
        )
    return rows


def var(args: Any) -> Rows:
    """Attention of 32 heads × 128 over 632 tokens, 576 of them of the picture, two sinks among them."""
    from core_attention.mechanisms.var_sink.pretrained import Call, Counts, Layer, VisualAttentionRedistribution
    from core_attention.mechanisms.var_sink.redistribution import Rule, behind_image, redistribute

    rule = Rule(0.6, 0.2, 1.0)
    editor = object.__new__(VisualAttentionRedistribution)
    editor.rule, editor.counts = rule, Counts()
    rows: Rows = []
    for label, queries in (("prefill", 632), ("decode", 1)):
        torch.manual_seed(0)
        q = torch.randn(1, 32, queries, 128)
        k, v = torch.randn(2, 1, 32, 632, 128)
        image = torch.zeros(1, 632, dtype=torch.bool)
        image[:, 35:611] = True
        sinks = torch.zeros_like(image)
        sinks[:, [0, 100, 300]] = True
        editable = behind_image(image)[:, 632 - queries :]
        layer = Layer(2, sinks, image, 632 - queries, editable, True)
        call = Call(q, k, v, None, 128**-0.5, None)
        causal = queries > 1

        def plain(q=q, k=k, v=v, causal=causal) -> Any:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).contiguous()

        def fast(layer=layer, call=call, plain=plain) -> Any:
            return editor.edit(layer, call, plain())

        def materialised(q=q, k=k, v=v, image=image, sinks=sinks, editable=editable, causal=causal) -> Any:
            scores = (q @ k.transpose(2, 3)) * 128**-0.5
            if causal:
                scores = scores.masked_fill(~torch.ones(632, 632, dtype=torch.bool).tril(), float("-inf"))
            edited, _ = redistribute(scores.softmax(-1), image, sinks, editable, rule)
            return (edited @ v).transpose(1, 2).contiguous()

        torch.testing.assert_close(fast(), materialised(), rtol=1e-3, atol=1e-4)
        for row in timed({"SDPA": plain, "VAR": fast, "materialised": materialised}, "SDPA", rounds=5):
            rows.append({"row": label, **row})
    return rows


def decoding(args: Any) -> Rows:
    """A decoder layer of Llama-7B's width: one token behind 632."""
    from transformers import DynamicCache, LlamaConfig, LlamaModel

    from core_attention.mechanisms.var_sink.pretrained import VisualAttentionRedistribution
    from core_attention.mechanisms.var_sink.redistribution import Rule

    rule = Rule(0.6, 0.2, 1.0)
    sizes: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }
    model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=32)).eval()
    image = torch.zeros(1, 632, dtype=torch.bool)
    image[:, 35:611] = True
    prompt = torch.randn(1, 632, 4096)
    prompt[:, [0, 100, 300], 7] = 3000
    token = torch.randn(1, 1, 4096)
    options = {"dims": (7,), "rule": rule, "first_layer": 0, "skip_last_layer": False, "image_mask": image}

    def step(cache: Any) -> Any:
        model(inputs_embeds=token, cache=cache, use_cache=True)
        cache.crop(-1)

    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(inputs_embeds=prompt, cache=cache, use_cache=True)
        plain = paired({"plain": lambda: step(cache)}, rounds=9, clock=time.process_time)["plain"]
        edited_cache = DynamicCache(config=model.config)
        with VisualAttentionRedistribution(model, **options) as editing:
            model(inputs_embeds=prompt, cache=edited_cache, use_cache=True)
            edited = paired({"VAR": lambda: step(edited_cache)}, rounds=9, clock=time.process_time)["VAR"]
        assert editing.edited_share > 0
    ratio = edited.median / plain.median
    return [
        {
            "row": "decode, a whole 7B layer",
            "what": "VAR",
            "ms": round(edited.median * 1e3, 1),
            "over SDPA": f"{ratio:.2f}",
        }
    ]


def refam(args: Any) -> Rows:
    """A two-stream FLUX block of 24 heads × 128 with 512 text tokens: stock, and with its text columns collected."""
    import diffusers

    from core_attention.mechanisms.refam.heatmap import TextTokens
    from core_attention.mechanisms.refam.pretrained import collect

    model = diffusers.FluxTransformer2DModel(  # pyright: ignore[reportPrivateImportUsage]
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=0, attention_head_dim=128, num_attention_heads=24,
        joint_attention_dim=64, pooled_projection_dim=8, axes_dims_rope=(16, 56, 56),
    ).eval()  # fmt: skip
    tokens = [TextTokens(words=((1,), (2, 3)))]
    rows: Rows = []
    for side in (32, 64):
        count = side * side
        ids = torch.cartesian_prod(torch.zeros(1), torch.arange(side).float(), torch.arange(side).float())
        inputs = {
            "hidden_states": torch.randn(1, count, 64),
            "encoder_hidden_states": torch.randn(1, 512, 64),
            "pooled_projections": torch.randn(1, 8),
            "timestep": torch.tensor([0.4]),
            "img_ids": ids,
            "txt_ids": torch.zeros(512, 3),
        }

        def stock(inputs=inputs) -> Any:
            return model(**inputs)

        def collecting(inputs=inputs) -> Any:
            with collect(model, tokens, stop=False) as collected:
                model(**inputs)
            return collected

        with torch.inference_mode():
            kept = collecting()[0].cross
            maps = 24 * (count + 512) ** 2 * 4
            share = f"1/{maps / (kept.numel() * kept.element_size()):.0f} of a block's maps"
            for row in timed({"stock": stock, "collecting": collecting}, "stock", rounds=2 if side > 32 else 3):
                rows.append({"row": f"{count} picture tokens", **row, "collected": share})
    return rows


def mllm(args: Any) -> Rows:
    """20 instructions on one picture of 576 tokens: one by one, and behind a shared prefix."""
    from vision_language.model.focallens_mllm import FocalLensMLLM, FocalLensMLLMConfig

    vision = {"model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
    vision |= {"num_attention_heads": 4, "image_size": 336, "patch_size": 14, "projection_dim": 64}
    text = {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
    }
    text |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    llava = {"vision_config": vision, "text_config": text, "image_token_index": 63, "image_seq_length": 576}
    llava |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    torch.manual_seed(0)
    model = FocalLensMLLM(FocalLensMLLMConfig(llava, 62, 32)).eval()
    prefix = torch.tensor([[1, *[63] * 576]])
    pixels = torch.randn(1, 3, 336, 336)
    tails = [torch.tensor([*torch.randint(2, 60, (4 + n % 5,)).tolist(), 62]) for n in range(20)]

    def alone() -> Any:
        rows = []
        for tail in tails:
            ids = torch.cat([prefix, tail[None]], 1)
            rows.append(model(ids, torch.ones_like(ids), pixels))
        return torch.cat(rows)

    def shared() -> Any:
        return model.embed_instructions(prefix, pixels, tails)

    with torch.inference_mode():
        torch.testing.assert_close(shared(), alone(), rtol=1e-3, atol=1e-4)
        return timed({"shared": shared, "one by one": alone}, "shared", rounds=3)


def b7(args: Any) -> Rows:
    """EfficientNet-B7 at 600 × 600, alone and with everything that grounds a sentence."""
    from vision_language.model.grounding_network import GroundingConfig, GroundingNetwork

    network = GroundingNetwork(GroundingConfig(backbone="b7")).eval()
    backbone = network.backbone
    assert backbone is not None
    image, sentence = torch.randn(1, 3, 600, 600), torch.randn(1, 384)
    with torch.inference_mode():
        contestants = {"backbone": lambda: backbone(image), "grounding": lambda: network(image, sentence)}
        return timed(contestants, "backbone", rounds=3)


ROWS = {
    "var": (var, "prefill at most 1.3 × SDPA and a third of materialised"),
    "decoding": (decoding, "a whole decoder layer at most 1.1 × without"),
    "refam": (refam, "at most 1.5 × the stock block; collected at most 1/20 of a block's maps"),
    "mllm": (mllm, "one by one at least 5 × shared, embeddings equal"),
    "b7": (b7, "at most 1.05 × its backbone"),
}


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--only", default="", help="rows whose names begin so")
    args = made.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name, (measure, required) in ROWS.items():
        if name.startswith(args.only):
            show(f"{name}: {required}", measure(args), args.json)


if __name__ == "__main__":
    main()
