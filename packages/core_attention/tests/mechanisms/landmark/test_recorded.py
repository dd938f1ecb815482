"""The published language models, assembled around our layer and memory from recorded weights: training, chunked reading, decoding."""

import pytest
import torch
from torch.nn import functional as F

from core_attention.mechanisms.landmark.attention import insert_landmarks, strip_landmarks
from core_attention.mechanisms.landmark.layer import LandmarkAttention
from core_attention.mechanisms.landmark.memory import chunk_length


class Model:
    """A pre-norm transformer over a recorded state dict: the small GPT, or LLaMA."""

    def __init__(self, case):
        self.weights, config = case.state_dict, case.config
        self.llama = "model.norm.weight" in self.weights
        layers, heads = ("num_hidden_layers", "num_attention_heads") if self.llama else ("n_layer", "n_head")
        self.layers = [self.attention(i, config[heads], config["mem_freq"] + 1) for i in range(config[layers])]

    def attention(self, i, heads, block):
        prefix = f"model.layers.{i}.self_attn." if self.llama else f"transformer.h.{i}.attn."
        own = {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}
        for name in ("weight", "bias"):
            if f"c_attn.{name}" in own:
                parts = own.pop(f"c_attn.{name}").chunk(3)
                own |= {f"{p}_proj.{name}": part for p, part in zip("qkv", parts, strict=True)}
                own[f"o_proj.{name}"] = own.pop(f"c_proj.{name}")
        own = {k: v for k, v in own.items() if "_proj." in k}
        width = own["q_proj.weight"].shape[0]
        layer = LandmarkAttention(
            width, heads, block=block, bias="q_proj.bias" in own, pairing="half" if self.llama else "interleaved"
        )
        layer.load_state_dict(own)
        return layer

    def norm(self, x, name):
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        if self.llama:
            return F.rms_norm(x, x.shape[-1:], weight, 1e-5)
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    def mlp(self, x, i):
        if self.llama:
            gate, up, down = (self.weights[f"model.layers.{i}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
            return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
        prefix = f"transformer.h.{i}.mlp."
        first, last = (
            (self.weights[f"{prefix}{n}.weight"], self.weights.get(f"{prefix}{n}.bias")) for n in ("c_fc", "c_proj")
        )
        return F.linear(F.gelu(F.linear(x, *first)), *last)

    def __call__(self, ids, *, memories=None, is_landmark=None):
        names = ("model.embed_tokens", "model.norm") if self.llama else ("transformer.wte", "transformer.ln_f")
        x = F.embedding(ids, self.weights[f"{names[0]}.weight"])
        for i, layer in enumerate(self.layers):
            prefix = f"model.layers.{i}." if self.llama else f"transformer.h.{i}."
            before, after = ("input_layernorm", "post_attention_layernorm") if self.llama else ("ln_1", "ln_2")
            where = {"is_landmark": is_landmark} if memories is None else {"cache": memories[i]}
            x = x + layer(self.norm(x, prefix + before), **where)
            x = x + self.mlp(self.norm(x, prefix + after), i)
        return self.norm(x, names[1]) @ self.weights["lm_head.weight"].T


@pytest.mark.parametrize("name", ["gpt_train", "gpt_train_irregular", "llama_train"])
def test_training_forward(recorded, name):
    case = recorded("landmark", name)
    ids = next(t for n, t in case.input.items() if n in ("idx", "input_ids"))
    mark = case.config.get("mem_id", case.config.get("landmark_id"))
    logits = Model(case)(ids, is_landmark=ids == mark)
    torch.testing.assert_close(logits, case.output["logits"], rtol=1e-3, atol=1e-4)
    if name != "gpt_train_irregular":
        torch.testing.assert_close(Model(case)(ids), logits)  # regular landmarks, found by counting


@pytest.mark.parametrize("name", ["cache_per_token_head", "cache_max_over_heads", "cache_max_over_tokens"])
@torch.no_grad()
def test_reading_in_chunks(recorded, name):
    case = recorded("landmark", name)
    config, ids = case.config, case.input["idx"]
    model, every = Model(case), config["mem_cache_freq"]
    memories = [
        layer.new_cache(
            config["cache_topk"], choice=config["cache_selection_method"], capacity=config["mem_cache_size"]
        )
        for layer in model.layers
    ]
    parts = []
    for start in range(0, ids.shape[1], config["mid_length"]):
        chunk = ids[:, start : start + config["mid_length"]]
        logits = model(insert_landmarks(chunk, config["landmark_id"], every, before=start), memories=memories)
        parts.append(strip_landmarks(logits, every, before=start, dim=1))
    torch.testing.assert_close(torch.cat(parts, dim=1), case.output["logits"], rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("name", ["llama_generate", "llama_generate_offload", "llama_generate_short"])
@torch.no_grad()
def test_decoding_token_by_token(recorded, name):
    case = recorded("landmark", name)
    config, ids = case.config, case.input["input_ids"]
    model, every = Model(case), config["mem_freq"]
    offload = config["offload_cache_to_cpu"]
    memories = [
        layer.new_cache(
            config["cache_top_k"], choice="max_over_tokens" if offload else "per_token_and_head", offload=offload
        )
        for layer in model.layers
    ]
    prompt = int(case.input["prompt_len"])
    length = chunk_length(config["train_context_length"], every + 1, config["cache_top_k"])
    for chunk in insert_landmarks(ids[:, :prompt], config["mem_id"], every).split(length, dim=1):
        logits = model(chunk, memories=memories)
    steps = [logits[:, -1]]
    for i in range(prompt, ids.shape[1]):
        logits = model(insert_landmarks(ids[:, i : i + 1], config["mem_id"], every, before=i), memories=memories)
        steps.append(logits[:, -1])
    count = case.output["step_logits"].shape[1]
    torch.testing.assert_close(torch.stack(steps, dim=1)[:, :count], case.output["step_logits"], rtol=2e-3, atol=5e-4)
