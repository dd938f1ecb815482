"""What once failed around the core's numbers, one test a case: torch.compile, lengths, autocast, transforms, copies, names, messages.

The cases are small inputs that a stress test found; each is written here anew, so that a fresh clone runs it. Where the folder of the cases
themselves is at hand (``shared/cases/core_attention``), `test_the_script_itself` runs those too.
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_file, save_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from core_attention import Blocks, Causal, KeyLengths, Segments, Window, attention, insert
from core_attention.golden.replay import verify
from core_attention.mechanisms.dma.attention import dynamic_mask_attention
from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.mvpformer import official as verified
from core_attention.mechanisms.sparsifiner.attention import SparsifinerAttention
from core_attention.mechanisms.ulsam.attention import ULSAM
from core_attention.pretrained.convert import convert_model
from core_attention.pretrained.transformers import register_with_transformers
from core_attention.registry.catalogue import declared

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.filterwarnings("ignore")]
LENGTHS = (64, 65, 66, 70, 81, 90, 100, 117, 130, 140)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(name, tokens=64):
    torch.manual_seed(0)
    return declared("examples")[name].load()(tokens)


# --- 01, 02, 03, 11, 18: graphs. They run in a process without the tests' shape checks, which torch cannot trace -----


def compiled_llama(implementation, padded):
    """Logits of a compiled Llama, and of the same that is not compiled and attends by torch's own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    register_with_transformers("core_attention")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, num_hidden_layers=1, **sizes)).eval()
    ids, mask = torch.randint(3, 100, (2, 16)), None
    if padded:
        mask = torch.ones(2, 16, dtype=torch.long)
        mask[0, :5] = 0
    there = slice(None) if mask is None else mask.bool()
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        model.set_attn_implementation(implementation)
        compiled = torch.compile(model, backend="aot_eager")
        ours = compiled(ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(ours[there], expected[there], rtol=1e-4, atol=1e-5)


def test_case_01_a_compiled_llama_attends_by_our_name(unhooked):
    pytest.importorskip("transformers")
    ask(unhooked, "[cases.compiled_llama('core_attention', padded) for padded in (False, True)]")


FORMS = {
    "torch's own": lambda a: F.scaled_dot_product_attention(a, a, a),
    "no mask": lambda a: attention(a, a, a),
    "causal": lambda a: attention(a, a, a, mask=Causal()),
    "window": lambda a: attention(a, a, a, mask=Window(16, 0)),
    "lengths": lambda a: attention(a, a, a, mask=KeyLengths(torch.tensor([a.shape[2] // 2]))),
}


def graphs_of_ten_lengths():
    from torch._dynamo.testing import CompileCounter

    found = {}
    for name, form in FORMS.items():
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(form, backend=counter)
        for length in LENGTHS:
            x = random(1, 1, length, 8)
            torch.testing.assert_close(compiled(x), form(x))
        found[name] = counter.frame_count
    return found


def exported_with_a_dynamic_length():
    class Plain(nn.Module):
        def forward(self, x):
            return attention(x, x, x)

    lengths = ({2: torch.export.Dim("L", min=8, max=4096)},)
    program = torch.export.export(Plain(), (random(2, 2, 64, 16),), dynamic_shapes=lengths, strict=False)
    other = random(2, 2, 99, 16)
    torch.testing.assert_close(program.module()(other), attention(other, other, other))


def test_case_02_ten_lengths_make_two_graphs_and_a_dynamic_one_exports(unhooked):
    found = ask(unhooked, "cases.graphs_of_ten_lengths()")
    assert found == dict.fromkeys(FORMS, 2)
    ask(unhooked, "cases.exported_with_a_dynamic_length()")


def operations_of_a_window(length):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    torch.compile(lambda x: attention(x, x, x, mask=Window(64, 0)), backend=counter)(random(1, 1, length, 16))
    return counter.op_count


def test_case_03_a_windows_graph_does_not_grow_with_the_length(unhooked):
    small, large = (ask(unhooked, f"cases.operations_of_a_window({length})") for length in (1024, 4096))
    assert small == large < 10


def whole_graph_and_export(module, inputs):
    with torch.no_grad():
        expected = module(*inputs)
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(*inputs)
        exported = torch.export.export(module, inputs, strict=False).module()(*inputs)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(exported, expected)


def sparsifiner_graphs():
    layer = SparsifinerAttention(64, num_heads=2, num_tokens=65, qkv_bias=True, reduce_n_factor=2).eval()
    whole_graph_and_export(layer, (random(1, 65, 64),))


def converted_vit_graphs(mechanism, **options):
    import timm

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.models.VisionTransformer(**sizes).eval()
    convert_model(model, mechanism, **options)
    whole_graph_and_export(model, (random(1, 3, 32, 32),))


CONVERTED = {
    "sparsifiner": {"reduce_n_factor": 2},
    "biformer": {"n_win": 2, "topk": 1},
    "moh": {"shared": 1, "routed": 1},
    "dma": {"window": 4},
}


def test_case_11_sparsifiner_compiles_and_exports_also_in_a_vit(unhooked):
    pytest.importorskip("timm")
    ask(unhooked, "cases.sparsifiner_graphs()")
    ask(unhooked, "cases.converted_vit_graphs('sparsifiner', **cases.CONVERTED['sparsifiner'])")


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", CONVERTED)
def test_every_converter_compiles_and_exports_in_a_vit(mechanism, unhooked):
    pytest.importorskip("timm")
    ask(unhooked, f"cases.converted_vit_graphs({mechanism!r}, **cases.CONVERTED[{mechanism!r}])")


TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
CONVERTED_LANGUAGE = {"moh": {"shared": 1, "routed": 1}, "dma": {"window": 4}}
BY_NAME = {
    "moba": ("llama", {"block": 8, "topk": 2}),
    "landmark": ("llama", {"block": 8}),
    "scatterbrain": ("bert", {"window": 8}),
    "core_attention": ("llama", {}),
}


def transformers_model(kind):
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=2)).eval()
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**TEXT)).eval()
    sizes = {name: size for name, size in TEXT.items() if name != "vocab_size"}
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).eval()


def same_compiled(model, kind, padded=False):
    """A compiled transformers model gives what it gives without; where there is padding, at the tokens."""
    there = ...
    if kind == "vit":
        call = {"pixel_values": random(2, 3, 32, 32)}
    else:
        mask = torch.ones(2, 24, dtype=torch.long)
        mask[0, : 9 * padded] = 0
        there = mask.bool()
        call = {"input_ids": torch.randint(3, 50, (2, 24)), "attention_mask": mask}
        call |= {"use_cache": False} if kind == "llama" else {}
    with torch.no_grad():
        expected = model(**call)[0]
        compiled = torch.compile(model, backend="aot_eager")(**call)[0]
    torch.testing.assert_close(compiled[there], expected[there], rtol=1e-4, atol=1e-5)


def converted_transformers_graphs(mechanism, kind, padded=False, **options):
    same_compiled(convert_model(transformers_model(kind), mechanism, **options), kind, padded)


def named_transformers_graphs(name, padded):
    register_with_transformers(name)
    kind, options = BY_NAME[name]
    model = transformers_model(kind)
    model.config.core_attention = {name: options}
    model.set_attn_implementation(name)
    same_compiled(model, kind, padded)


def test_a_converted_llama_compiles_with_padding(unhooked):
    """A graph knows no values: what of a mask is padding and what the causal rule, it is told otherwise."""
    pytest.importorskip("transformers")
    ask(unhooked, "cases.converted_transformers_graphs('dma', 'llama', True, window=4)")


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("mechanism", CONVERTED_LANGUAGE)
def test_every_converter_compiles_in_a_language_model(mechanism, padded, unhooked):
    pytest.importorskip("transformers")
    ask(
        unhooked,
        f"cases.converted_transformers_graphs({mechanism!r}, 'llama', {padded}, **cases.CONVERTED_LANGUAGE[{mechanism!r}])",
    )


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", CONVERTED)
def test_every_converter_compiles_in_a_vit_of_transformers(mechanism, unhooked):
    pytest.importorskip("transformers")
    ask(unhooked, f"cases.converted_transformers_graphs({mechanism!r}, 'vit', **cases.CONVERTED[{mechanism!r}])")


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_name_compiles_in_transformers(name, padded, unhooked):
    """Blocks are counted on each sample's own tokens: those that do so end the graph where they look at the padding."""
    pytest.importorskip("transformers")
    ask(unhooked, f"cases.named_transformers_graphs({name!r}, {padded})")


def vmoba_graphs():
    of_64 = example("vmoba")
    whole_graph_and_export(of_64.module.eval(), of_64.inputs)


def test_case_18_vmoba_compiles_and_exports(unhooked):
    ask(unhooked, "cases.vmoba_graphs()")


def ask(unhooked, expression):
    """The value of an expression over this file as `cases`, from a process without the shape checks."""
    path = str(Path(__file__))
    code = f"import importlib.util\nspec = importlib.util.spec_from_file_location('cases', {path!r})\n"
    code += "cases = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(cases)\n"
    return eval(unhooked(code + f"print(repr({expression}))"), {})


# --- 04 … 07: numbers ------------------------------------------------------------------------------------------------


def test_case_04_autocast_casts_queries_keys_and_values_alike():
    linear, x, rotary = nn.Linear(16, 48), random(1, 10, 16), random(10, 4)
    with torch.autocast("cpu", torch.bfloat16):
        q, k, v = linear(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        q, k = q * rotary, k * rotary
        assert (q.dtype, v.dtype) == (torch.float32, torch.bfloat16)
        assert attention(q, k, v).dtype == F.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("keys", "lengths"),
    [(20, (7, 20)), (200, (100, 200)), (256, (240, 256)), (300, (100, 300)), (1024, (1000, 1024)), (1024, (512, 1024))],
)
def test_case_05_nan_behind_lengths_is_not_read(keys, lengths):
    q, k, v = (random(2, 2, keys, 8, seed=s) for s in range(3))
    k[0, :, lengths[0] :] = v[0, :, lengths[0] :] = float("nan")
    assert attention(q, k, v, mask=KeyLengths(torch.tensor(lengths))).isfinite().all()


def test_case_05_nan_in_an_interleaved_segment_is_not_read():
    q, k, v = (random(1, 2, 20, 8, seed=s) for s in range(3))
    ids = torch.tensor([[0, 1] * 10])
    k[:, :, 1] = float("nan")
    assert attention(q, k, v, mask=Segments(ids))[0, :, ids[0] == 0].isfinite().all()


def test_case_06_vmap_fake_tensors_and_make_fx():
    many = random(3, 1, 2, 6, 8)
    one_by_one = torch.stack([attention(x, x, x) for x in many])
    torch.testing.assert_close(torch.func.vmap(lambda a: attention(a, a, a))(many), one_by_one)
    with FakeTensorMode():
        a = torch.empty(1, 2, 6, 8)
        assert attention(a, a, a).shape == (1, 2, 6, 8)
    x = random(1, 1, 4, 4)
    graph = make_fx(lambda a: attention(a, a, a), tracing_mode="fake")(x)
    torch.testing.assert_close(graph(x), attention(x, x, x))


@pytest.mark.parametrize("mask", [Causal(), Window(2, 0)], ids=str)
@pytest.mark.parametrize("scale", [-1.0, 0.0])
def test_case_07_scales_that_are_not_positive_are_as_the_reference(scale, mask):
    q = random(1, 1, 6, 4)
    expected = attention(q, q, q, mask=mask, scale=scale, backend="reference")
    torch.testing.assert_close(attention(q, q, q, mask=mask, scale=scale), expected)
    assert expected.isfinite().all()


# --- 08, 10: models ---------------------------------------------------------------------------------------------------


def test_case_08_mixture_of_heads_is_copied_after_a_step():
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    convert_model(model, "moh", shared=1, routed=1)
    x = random(2, 3, 32, 32)
    model(x).sum().backward()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        torch.testing.assert_close(twin.eval()(x), model.eval()(x))


def test_case_10_a_default_bert_trains_with_dropout():
    transformers = pytest.importorskip("transformers")
    register_with_transformers("core_attention")
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=32)).train()
    assert model.config.attention_probs_dropout_prob == 0.1
    model.set_attn_implementation("core_attention")
    ids = torch.randint(0, 100, (2, 9))
    torch.manual_seed(1)
    first = model(ids).last_hidden_state
    first.square().mean().backward()
    assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if "pooler" not in n)
    torch.manual_seed(1)
    assert torch.equal(model(ids).last_hidden_state, first)  # seeded
    model.eval()
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


# --- 09, 12: mechanisms -----------------------------------------------------------------------------------------------


def test_case_09_a_bias_per_key_head_and_a_mask_per_query_head():
    q, k, bias = random(1, 4, 10, 8), random(1, 2, 10, 8, seed=1), random(1, 2, 1, 10, seed=2)
    mask = torch.ones(1, 4, 1, 10, dtype=torch.bool)
    mask[:, 1, :, 3] = False
    expected = dynamic_mask_attention(q, k, k, bias, window=4, mask=mask, backend="reference")
    for backend in ("auto", "tiles"):
        found = dynamic_mask_attention(q, k, k, bias, window=4, mask=mask, backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["biformer", "dma", "landmark", "moh", "mvpa"])
def test_case_12_no_sample_gives_no_sample_and_no_loss(name):
    of_64 = example(name)
    whole = of_64.module.eval()(*of_64.inputs)
    empty = of_64.module(*(t[:0] if t.ndim > 2 else t for t in of_64.inputs))
    whole, empty = (out if isinstance(out, tuple) else (out,) for out in (whole, empty))
    for with_samples, without in zip(whole, empty, strict=True):
        if with_samples.ndim:
            assert without.shape == (0, *with_samples.shape[1:])
        else:
            assert without == 0  # a balance loss


# --- 13, 14, 16, 19: names and messages -------------------------------------------------------------------------------


def test_case_13_names_at_the_top():
    import core_attention

    for name in ("Causal", "KeyLengths", "convert_model", "explain", "routed_attention"):
        assert callable(getattr(core_attention, name))
    assert set(core_attention.__all__) <= set(dir(core_attention))
    assert not {"Any", "ModuleType", "import_module", "sys"} & set(dir(core_attention))
    assert re.match(r"\d+\.\d+", core_attention.__version__)
    code = (
        "import core_attention.attention as A, sys; assert hasattr(sys.modules['core_attention.attention'], 'explain')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks(torch.ones(1, 1, 1, 1, dtype=torch.bool), 0), "at least 1 position"),
        (lambda: KeyLengths([3, 4]), r"write torch.tensor\(\[3, 4\]\)"),
        (lambda: KeyLengths(torch.tensor([-1, 9])), "from 0 to the 5 keys"),
        (lambda: Causal(1.5), "whole number of positions"),
        (lambda: Window(2.5, 1), "whole number of positions"),
    ],
)
def test_case_14_bad_masks_are_refused_in_words(make, message):
    q = random(2, 2, 5, 8)
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, mask=make())


def test_case_14_float8_is_refused_and_huge_queries_are_computed():
    q = random(2, 2, 5, 8)
    with pytest.raises(ValueError, match=r"q needs one of torch\.float32"):
        attention(*[q.to(torch.float8_e4m3fn)] * 3)
    huge, tiny = torch.full((1, 1, 4, 64), 1e37), random(1, 1, 4, 64) * 1e-37
    assert attention(huge, tiny, random(1, 1, 4, 64)).isfinite().all()


def test_case_16_scripting_after_insert_says_what_works():
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32))
    insert(network, "ela", after="1")
    with pytest.raises(Exception, match=r"torch\.jit\.script cannot read the hook"):
        torch.jit.script(network)


def test_case_19_a_mask_of_keys_is_not_taken_for_one_of_pairs():
    padding = torch.arange(4) < torch.tensor([1, 2, 3, 4])[:, None]
    q = random(4, 1, 4, 8)
    with pytest.raises(ValueError, match=r"key_mask=mask"):
        attention(q, q, q, mask=padding)
    with pytest.raises(ValueError, match=r"pass it as key_mask="):
        attention(q[:3], q[:3], q[:3], mask=padding[:3])
    expected = attention(q, q, q, mask=padding[:, None, None])
    torch.testing.assert_close(attention(q, q, q, key_mask=padding), expected)


# --- 15, 17: what is kept ---------------------------------------------------------------------------------------------


def shard_balanced():
    """FSDP2 on one process takes the layer, and its gradients are those of the layer alone."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    printed = os.dup(1)
    os.dup2(2, 1)  # gloo of torch 2.10 prints where answers are read
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        layer, x = BalancedMultiTaskAttention(64), random(2, 64, 8, 8)
        layer(x).square().mean().backward()
        expected = {name: p.grad.clone() for name, p in layer.named_parameters()}
        layer.zero_grad()
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
        layer(x).square().mean().backward()
        for name, p in layer.named_parameters():
            torch.testing.assert_close(p.grad.full_tensor(), expected[name])
    finally:
        torch.distributed.destroy_process_group()
        os.dup2(printed, 1)
        os.close(printed)


def test_case_15_fsdp_shards_the_balanced_attention(unhooked):
    ask(unhooked, "cases.shard_balanced()")


def test_case_15_a_checkpoint_with_a_plain_number_still_loads():
    layer = BalancedMultiTaskAttention(64)
    assert layer.alpha.shape == (1,)
    state = layer.state_dict()
    state["alpha"] = torch.tensor(0.25)  # as published, without an axis
    layer.load_state_dict(state)
    assert layer.alpha.tolist() == [0.25]


def test_case_17_ulsam_is_saved_both_ways(tmp_path):
    torch.manual_seed(0)
    layer, other = ULSAM(64, num_splits=4).eval(), ULSAM(64, num_splits=4).eval()
    save_file(layer.state_dict(), tmp_path / "state.safetensors")
    save_model(layer, str(tmp_path / "model.safetensors"))
    load_model(other, str(tmp_path / "model.safetensors"))
    x = random(2, 64, 6, 6)
    torch.testing.assert_close(other(x), layer(x))


def test_golden_case_of_a_gradient_that_is_truly_zero(tmp_path):
    """At one time step softmax cancels the positional term: its recorded gradient of zeros is compared within atol, not as a mask."""
    config = {"n_embd": 16, "n_head": 2, "n_head_kv": 2, "layer_idx": 0}
    torch.manual_seed(0)
    layer = verified.build(config).double()
    nn.init.normal_(layer.attn_bias)
    shapes = {"hidden_states": (1, 1, 4, 16), "positional_embedding": (1, 16), "channel_embedding": (4, 16)}
    inputs = {name: torch.randn(shape, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
    out, probe = layer(*inputs.values()), torch.randn(1, 1, 4, 16, dtype=torch.float64)
    gradients = torch.autograd.grad((out * probe).sum(), list(inputs.values()))
    of_positions = gradients[1]
    assert of_positions.abs().max() < 1e-12
    tensors = {"output/attn_output": out, "probe/attn_output": probe}
    tensors |= {f"state_dict/{key}": value for key, value in layer.state_dict().items()}
    tensors |= {f"input/{name}": value for name, value in inputs.items()}
    tensors["grad/input/positional_embedding"] = torch.zeros_like(of_positions)
    tensors = {key: value.detach().float().contiguous() for key, value in tensors.items()}
    save_file(tensors, tmp_path / "zero.safetensors")
    case = {"system": "mvpformer", "component": "MVPFormerGQAAttention", "config": config, "mode": "eval"}
    case |= {"rtol": 1e-4, "atol": 2e-5, "grad_of": {"attn_output": "probe"}}
    (tmp_path / "zero.json").write_text(json.dumps(case))
    found = verify(tmp_path / "zero.json")
    assert found.status == "ok", found
    assert any(row.name == "grad/input/positional_embedding" for row in found.rows)


# --- the scripts themselves -------------------------------------------------------------------------------------------

# names that have moved since the scripts were written
MOVED = {
    "core_attention.converters": "core_attention.pretrained.convert",
    "core_attention.mechanisms.dma import": "core_attention.mechanisms.dma.attention import",
    "core_attention.mechanisms.sparsifiner_attention": "core_attention.mechanisms.sparsifiner.attention",
    "from core_attention.catalogue import MECHANISMS": "from core_attention.registry.catalogue import declared",
    "MECHANISMS[n].make(64)": "declared('examples')[n].load()(64)",
    'MECHANISMS["vmoba"].make(64)': "declared('examples')['vmoba'].load()(64)",
    "from core_attention.feature_maps import BalancedMultiTaskAttention": (
        "from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention"
    ),
    "from core_attention.feature_maps import ULSAM": "from core_attention.mechanisms.ulsam.attention import ULSAM",
}
# what a script must not print, beside the names of errors
WRONG = {
    "05": "True",
    "07": r"NaN: [1-9]",
    "12": "NaN",
    "13": "ImportError",
    "14": "accepted|ZeroDivisionError|AttributeError|NaN: True",
}
REFUSED = {"14": "ValueError", "16": "torch.jit.script cannot read", "19": "key_mask=mask"}  # what it must print


def cases_folder():
    roots = [folder / "shared" for folder in Path(__file__).parents]
    if "CORE_ATTENTION_SHARED" in os.environ:
        roots.insert(0, Path(os.environ["CORE_ATTENTION_SHARED"]))
    for root in roots:
        if (root / "cases" / "core_attention").is_dir():
            return root / "cases" / "core_attention"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("number", [f"{n:02}" for n in range(1, 20)])
def test_the_script_itself(number, tmp_path):
    folder = cases_folder()
    if folder is None:
        pytest.skip("needs shared/cases/core_attention; name the folder that holds cases/ in CORE_ATTENTION_SHARED")
    (script,) = folder.glob(f"{number}_*.py")
    text = script.read_text(encoding="utf-8")
    for old, new in MOVED.items():
        text = text.replace(old, new)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, cwd=tmp_path, timeout=500
    )
    printed = done.stdout + done.stderr
    if number in REFUSED:
        assert REFUSED[number] in printed, printed
    else:
        assert done.returncode == 0, printed
        assert not re.search(r"Error", done.stdout), printed
    if number in WRONG:
        assert not re.search(WRONG[number], done.stdout), printed
