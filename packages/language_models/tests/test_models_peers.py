"""Other sizes and options than the recorded ones, beside the published code itself where it is installed."""

import pytest
import torch
import transformers

from language_models.model.official import deconstructing, dma, titans

MEMORY = {"dim_head": 8, "heads": 4, "default_step_transform_max_lr": 0.1}
SIZES = {
    "num_tokens": 40,
    "dim": 32,
    "segment_len": 8,
    "num_persist_mem_tokens": 2,
    "num_longterm_mem_tokens": 2,
    "dim_head": 8,
    "heads": 4,
    "num_residual_streams": 1,
}


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 3, "neural_memory_layers": (1, 3), "neural_memory_kwargs": MEMORY},
        {
            "depth": 3,
            "neural_memory_layers": (1, 3),
            "neural_mem_weight_residual": True,
            "neural_memory_qkv_receives_diff_views": True,
            "neural_memory_segment_len": 4,
            "neural_memory_kwargs": MEMORY,
        },
        {
            "depth": 2,
            "neural_memory_layers": (2,),
            "neural_memory_batch_size": 10,
            "neural_memory_kwargs": {**MEMORY, "qk_rmsnorm": True},
        },
    ],
    ids=["layers 1 and 3", "views and weight residual", "layer 2"],
)
def test_titans_pytorch_with_other_memory_layers(options):
    published = pytest.importorskip("titans_pytorch")
    torch.manual_seed(0)
    theirs = published.MemoryAsContextTransformer(**SIZES, **options).eval()
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    ours = titans.components["MemoryAsContextTransformer"].load({**SIZES, **options}, state).eval()
    ids = torch.randint(0, 40, (2, 37))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied, experts", "untied"])
def test_doge_with_one_key_head_and_another_base(tied):
    torch.manual_seed(0)
    config = transformers.DogeConfig(
        vocab_size=41,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        keep_window_size=7,
        tie_word_embeddings=tied,
        is_moe=tied,
        num_experts=25,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    theirs = transformers.DogeForCausalLM(config).eval()
    theirs.set_attn_implementation("eager")
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = dma.components["DogeForCausalLM"].load(config.to_dict(), dict(theirs.state_dict())).eval()
    ids = torch.randperm(41)[:22].view(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, labels=ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "kinds", [["rnd", "standard"], ["fixedseq", "rnd", "static"]], ids=lambda kinds: " ".join(kinds)
)
def test_the_fixed_stream_is_as_long_as_the_state_says(tied, kinds):
    sizes = {"vocab": 19, "hidden": 12, "intermediate": 20, "heads": 3, "kinds": kinds, "tie_embeddings": tied}
    component = deconstructing.components["LanguageModel"]
    torch.manual_seed(0)
    made = deconstructing.DeconstructedForCausalLM(deconstructing.build({**sizes, "fixed_length": 17}).config).eval()
    official = {key.removeprefix("model."): value.clone() for key, value in made.state_dict().items()}
    loaded = component.load(sizes, official).eval()
    ids = torch.randint(0, 19, (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, made(ids).logits)
    assert loaded.config.fixed_length == 17
    with pytest.raises(ValueError, match="fixed stream of 17"):
        loaded(torch.zeros(1, 18, dtype=torch.long))
