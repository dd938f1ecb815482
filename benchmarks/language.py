"""Language models against their peers: equal weights, one thread, alternating in one process.

    python benchmarks/language.py --part doge           # transformers' Doge, 4,096 tokens, window 512: prefill and decode
    python benchmarks/language.py --part decode         # DMA and landmark: one token after 1,024 … 65,536, beside LlamaForCausalLM of equal size
    python benchmarks/language.py --part decode-titans  # the same of Titans
    python benchmarks/language.py --part titans         # titans-pytorch's MAC with the same weights
    python benchmarks/language.py --part memory         # a prompt of 65,536 tokens: peak beyond weights

All models: 4 layers, 256 wide, 4 heads, 2 of keys. After 65,536 tokens keys and values are filled in at random for the models that keep or store them all
(LLaMA, landmark): reading the prompt takes LLaMA minutes, and a decoded token costs the same.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from measure import paired, parser, peak_memory, ratio, show, size

from language_models.model.doge import DogeConfig, DogeForCausalLM
from language_models.model.landmark import LandmarkConfig, LandmarkForCausalLM
from language_models.model.plain import PlainConfig, twin_config
from language_models.model.titans import TitansConfig, TitansForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOW = 512
LENGTHS = (1024, 8192, 65536)


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(0, 1000, (1, length), generator=torch.Generator().manual_seed(0))


def make_doge() -> DogeForCausalLM:
    torch.manual_seed(0)
    model = DogeForCausalLM(DogeConfig(**SIZES, keep_window_size=WINDOW, max_position_embeddings=1 << 17)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".A"):
            torch.nn.init.normal_(parameter)  # 0 would tie all keys
    return model


def doge(rounds: int) -> list[dict[str, str]]:
    """Against transformers' Doge with the same weights."""
    from language_models.model.convert import to_transformers

    ours = make_doge()
    theirs = to_transformers(ours).eval()
    ids = ids_of(4096)
    rows = []
    whole = paired(
        {
            "ours": lambda: ours(ids, cache=ours.new_cache(), logits_to_keep=1),
            "transformers": lambda: theirs(ids, use_cache=True, logits_to_keep=1),
        },
        rounds=rounds,
        clock=time.process_time,
    )
    rows.append(row("prefill of 4,096 tokens", whole["ours"], whole["transformers"], "transformers' Doge"))
    cache, other = ours.new_cache(), theirs(ids, use_cache=True, logits_to_keep=1).cache
    ours(ids, cache=cache, logits_to_keep=1)
    token = ids[:, :1]
    step = paired(
        {"ours": lambda: ours(token, cache=cache), "transformers": lambda: theirs(token, cache=other, use_cache=True)},
        rounds=5 * rounds,
        clock=time.process_time,
    )
    rows.append(row("decoded token after them", step["ours"], step["transformers"], "transformers' Doge"))
    return rows


def row(what: str, ours: Any, theirs: Any, peer: str) -> dict[str, str]:
    return {
        "what": what,
        "ours": f"{1000 * ours.median:.2f} ms",
        "peer": f"{peer}: {1000 * theirs.median:.2f} ms",
        "times": ratio(theirs, ours),
    }


def filled_llama(model: Any, length: int) -> Any:
    """transformers' cache after `length` tokens, of random keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(SIZES["num_hidden_layers"]):
        cache.update(torch.randn(1, 2, length, 64), torch.randn(1, 2, length, 64), layer)
    return cache


def filled_landmark(model: LandmarkForCausalLM, length: int) -> Any:
    """Our cache after `length` tokens, of random keys and values."""
    cache = model.new_cache()
    cache.begin(1, torch.device("cpu"))
    positions = cache.positions(length)
    for layer in cache.groups[0].layers:
        layer.store(torch.randn(1, 2, positions, 64), torch.randn(1, 2, positions, 64))  # pyright: ignore[reportAttributeAccessIssue]
    cache.length = cache.groups[0].length = length
    return cache


def read(model: Any, length: int) -> Any:
    """Our cache after a prompt of `length` tokens."""
    cache = model.new_cache()
    model(ids_of(length), cache=cache, logits_to_keep=1)
    return cache


def decode_selecting(rounds: int) -> list[dict[str, str]]:
    """One token after a long context: the mechanisms that select keys."""
    landmark = LandmarkForCausalLM(LandmarkConfig(**SIZES, mem_id=1023, mem_freq=50, cache_top_k=4)).eval()
    return decode({"DMA": make_doge(), "landmark": landmark}, rounds)


def decode_titans(rounds: int) -> list[dict[str, str]]:
    """One token after a long context: Titans."""
    sizes = {**SIZES, "num_key_value_heads": 4}
    models: dict[str, Any] = {}
    for variant in ("mag", "lmm", "mal", "mac"):
        models[f"Titans {variant.upper()}"] = TitansForCausalLM(
            TitansConfig(**sizes, variant=variant, window=64)
        ).eval()
    return decode(models, rounds)


def decode(models: dict[str, Any], rounds: int) -> list[dict[str, str]]:
    """One token after each of `LENGTHS`, beside LLaMA of equal size."""
    import transformers

    twin: Any = twin_config(PlainConfig(**SIZES, max_position_embeddings=1 << 17))
    llama = transformers.LlamaForCausalLM(twin).eval()
    rows, first = [], {}
    for length in LENGTHS:
        caches = {
            name: filled_landmark(model, length) if name == "landmark" else read(model, length)
            for name, model in models.items()
        }
        theirs = filled_llama(llama, length)
        token = ids_of(1)
        runs: dict[str, Any] = {"LLaMA": lambda c=theirs, t=token: llama(t, cache=c, use_cache=True)}
        for name, model in models.items():
            runs[name] = lambda m=model, c=caches[name], t=token: m(t, cache=c)
        times = paired(runs, rounds=8 * rounds, warm=2, clock=time.process_time)
        for name in models:
            first.setdefault(name, times[name])
            rows.append(
                {
                    **row(f"{name} after {length:,}", times[name], times["LLaMA"], "LLaMA"),
                    "over 1,024": f"{times[name].median / first[name].median:.2f}×",
                    "state": size(caches[name].state_bytes()),
                }
            )
    return rows


def titans(rounds: int) -> list[dict[str, str]]:
    """titans-pytorch's memory-as-context transformer, the same weights in both."""
    from titans_pytorch import MemoryAsContextTransformer  # pyright: ignore[reportMissingImports]

    from language_models.model.declarations import titans as system

    options: dict[str, Any] = {
        "num_tokens": 256, "dim": 256, "depth": 4, "segment_len": 64, "num_persist_mem_tokens": 4, "num_longterm_mem_tokens": 4,
        "dim_head": 64, "heads": 4, "num_residual_streams": 1, "neural_memory_layers": (2, 4), "neural_memory_segment_len": 16,
        "neural_memory_batch_size": 128, "neural_memory_kwargs": {"dim_head": 64, "heads": 4, "default_step_transform_max_lr": 0.1},
    }  # fmt: skip
    torch.manual_seed(0)
    theirs: Any = MemoryAsContextTransformer(**options).eval()
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    ours: Any = system.components["MemoryAsContextTransformer"].load(options, state).eval()
    ids = torch.randint(0, 256, (1, 2048), generator=torch.Generator().manual_seed(0))
    difference = (ours(ids).logits - theirs(ids)).abs().max()
    assert float(difference) < 1e-2, f"the two differ by {float(difference)}"
    rows = []
    whole = paired({"ours": lambda: ours(ids), "theirs": lambda: theirs(ids)}, rounds=rounds, clock=time.process_time)
    rows.append(row("forward of 2,048 tokens", whole["ours"], whole["theirs"], "titans-pytorch"))
    prompt = ids[:, :300]
    cache = ours.new_cache()
    ours(prompt, cache=cache, logits_to_keep=1)
    new = 8

    def decode_ours() -> None:
        own = copy.deepcopy(cache)
        for place in range(new):
            ours(ids[:, 300 + place : 301 + place], cache=own)

    positions = theirs.axial_pos_emb(theirs.axial_pos_emb.maybe_derive_outer_dim(400, (16,)), return_factorized=True)
    their_cache = None
    for place in range(theirs.seq_len_with_longterm_mem(300)):
        _, their_cache = theirs(
            prompt,
            disable_flex_attn=True,
            cache=their_cache or (0, None, None),
            return_cache=True,
            factorized_pos_emb=positions,
        )
        del place

    def decode_theirs() -> None:
        own = their_cache
        for place in range(new):
            _, own = theirs(
                ids[:, : 301 + place],
                disable_flex_attn=True,
                cache=own,
                return_cache=True,
                factorized_pos_emb=positions,
            )

    step = paired({"ours": decode_ours, "theirs": decode_theirs}, rounds=rounds, clock=time.process_time)
    rows.append(row(f"{new} decoded tokens after 300", step["ours"], step["theirs"], "titans-pytorch"))
    return rows


SETUP = """
import sys; sys.path.insert(0, "benchmarks")
import torch; torch.set_grad_enabled(False)
import language as b
model = {make}
model(b.ids_of(64), cache=model.new_cache(), logits_to_keep=1)
ids = b.ids_of(65536)
"""


def memory(rounds: int) -> list[dict[str, str]]:
    """Peak memory of a prompt of 65,536 tokens beyond weights and inputs, each in a process of its own."""
    makes = {
        "DMA": "b.make_doge()",
        "landmark": "b.LandmarkForCausalLM(b.LandmarkConfig(**b.SIZES, mem_id=1023, mem_freq=50, cache_top_k=4)).eval()",
        "Titans MAG": "b.TitansForCausalLM(b.TitansConfig(**{**b.SIZES, 'num_key_value_heads': 4}, variant='mag', window=64)).eval()",
    }
    rows = []
    for name, make in makes.items():
        peak = peak_memory(
            SETUP.format(make=make), "model(ids, cache=model.new_cache(), logits_to_keep=1)", timeout=1800
        )
        rows.append({"what": f"{name}, prompt of 65,536 tokens", "peak": size(peak)})
    return rows


PARTS = {"doge": doge, "decode": decode_selecting, "decode-titans": decode_titans, "titans": titans, "memory": memory}


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--part", choices=PARTS, action="append", help="only this (default all)")
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.no_grad():
        for part in arguments.part or PARTS:
            show(PARTS[part].__doc__ or part, PARTS[part](arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
