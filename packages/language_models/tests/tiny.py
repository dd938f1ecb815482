"""A tiny model of every registered kind, for the tests that all of them pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from language_models.model.causal import SuiteForCausalLM
from language_models.model.registration import MODELS

SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# with more blocks than are read the answer depends on where a prompt is cut: the memory reads all blocks here
LANDMARKS = {"mem_id": 36, "mem_freq": 3, "cache_top_k": 12, "train_context_length": 80}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("plain-llama", {"num_key_value_heads": 2}),
    "qwen": ("plain-llama", {"attention_bias": True}),
    "sliding": ("plain-llama", {"attention": "sliding", "window": 5, "num_key_value_heads": 2}),
    "moba": ("plain-llama", {"attention": "moba", "window": 4, "topk": 2}),
    "landmark-llama": ("landmark-llama", {**LANDMARKS, "num_key_value_heads": 1}),
    "landmark-after-tokens": ("landmark-llama", {**LANDMARKS, "include_landmark_in_loss": False}),
    "landmark-gpt": ("landmark-gpt", LANDMARKS),
    "doge": ("suite-doge", {"num_key_value_heads": 2, "keep_window_size": 5}),
    "doge-log": ("suite-doge", {"keep_window_size": 4, "bias_form": "log"}),
    "doge-moe": ("suite-doge", {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 3, "keep_window_size": 6}),
    "titans-mac": ("titans", {"variant": "mac", "window": 4}),
    "titans-mag": ("titans", {"variant": "mag", "window": 4}),
    "titans-mal": ("titans", {"variant": "mal", "window": 4}),
    "titans-lmm": ("titans", {"variant": "lmm", "window": 4}),
    "titans-lr": (
        "titans-lr",
        {
            "segment_len": 4,
            "num_longterm_mem_tokens": 2,
            "num_persist_mem_tokens": 2,
            "head_dim": 6,
            "num_hidden_layers": 3,
            "neural_memory_layers": [1, 3],
            "neural_memory_segment_len": 2,
            "neural_memory_batch_size": 4,
            "neural_memory_kwargs": {"dim_head": 6, "heads": 4, "default_step_transform_max_lr": 0.1},
        },
    ),
    "titans-lr-gated": (
        "titans-lr",
        {
            "segment_len": 4,
            "num_longterm_mem_tokens": 1,
            "head_dim": 6,
            "neural_memory_segment_len": 2,
            "neural_mem_gate_attn_output": True,
            "neural_mem_weight_residual": True,
            "neural_memory_qkv_receives_diff_views": True,
            "sliding_window_attn": True,
            "neural_memory_kwargs": {"dim_head": 6, "heads": 4, "default_step_transform_max_lr": 0.1},
        },
    ),
    "moh-norm": ("moh-llama", {"num_key_value_heads": 2}),
    "moh-learned": ("moh-llama", {"router": "learned", "shared_heads": 1, "routed_heads": 2}),
    "scatterbrain": ("scatterbrain-lm", {"local_context": 6, "features": 8, "num_key_value_heads": 2}),
    "mlp": ("deconstructed", {"pattern": "mlp"}),
    "approx": ("deconstructed", {"pattern": "approx"}),
    "approx-apart": ("deconstructed", {"pattern": "approx", "approx_form": "paper_recurrent", "approx_rope": False}),
    "nonapprox": ("deconstructed", {"pattern": "hybrid:even:nonapprox"}),
    "rnd": ("deconstructed", {"pattern": "rnd", "fixed_length": 64}),
    "fixedseq": ("deconstructed", {"pattern": "hybrid:first:fixedseq", "fixed_length": 64}),
    "static": ("deconstructed", {"pattern": "static", "num_hidden_layers": 3}),
    "skipped": ("deconstructed", {"pattern": "hybrid:even:rnd", "skip": True, "fixed_length": 64}),
}


def tiny(name: str, **options: Any) -> SuiteForCausalLM:
    """A tiny model, with weights far enough from 0 that mechanisms differ, in float64."""
    model_type, own = TINY[name]
    kind = MODELS[model_type]
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SIZES, **own, **options}))
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and ".memory." not in key:
            nn.init.normal_(parameter, std=0.25)
        elif key.endswith(".A"):
            nn.init.normal_(parameter)
    return model.double().eval()


def ids_of(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Token ids without the landmark, none twice in a sample: equal tokens tie in the first layer of Doge, where rounding would decide."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(36, generator=generator)[:length] for _ in range(batch)])
