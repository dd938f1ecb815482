"""The front door in graphs: torch.compile with lengths that change, export, transformers models by name.

Everything runs in one process without the tests' shape checks, which torch cannot trace; a test reads its line of the outcome.
"""

import pytest
import torch
import torch.nn.functional as F

from core_attention.attention import attention
from core_attention.masks import Alibi, Causal, KeyLengths, Not, RelativePosition, Segments, Window

FORMS = {
    "F.sdpa": lambda a: F.scaled_dot_product_attention(a, a, a),
    "no mask": lambda a: attention(a, a, a),
    "causal": lambda a: attention(a, a, a, mask=Causal()),
    "causal at the end": lambda a: attention(a[:, :, 3:], a, a, mask=Causal(align="end")),
    "window": lambda a: attention(a, a, a, mask=Window(16, 0)),
    "lengths": lambda a: attention(a, a, a, mask=KeyLengths(torch.tensor([a.shape[2] // 2]))),
    "segments": lambda a: attention(a, a, a, mask=Segments(torch.arange(a.shape[2])[None] // 7)),
    "either": lambda a: attention(a, a, a, mask=Window(3, 0) | Not(Causal(9))),
    "log-sum-exp": lambda a: attention(a, a, a, return_lse=True)[1],
}
TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
MODELS = [("Llama", "padding"), ("Bert", "none")]  # causal and not, with a mask and without
MORE_MODELS = [("Llama", "none"), ("Bert", "padding"), ("Mistral", "padding"), ("Mistral", "none")]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lengths(name):
    """Graphs for ten lengths, and operations of the largest."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(FORMS[name], backend=counter, fullgraph=True)
    for n in (64, 65, 66, 70, 81, 90, 100, 117, 130, 140):
        x = random(1, 1, n, 8)
        torch.testing.assert_close(compiled(x), FORMS[name](x))
    assert counter.frame_count == 2, f"{counter.frame_count} graphs"
    assert counter.op_count < 60, f"{counter.op_count} operations in both graphs"


def export():
    class Layer(torch.nn.Module):
        def forward(self, x):
            return attention(x, x, x) + attention(x, x, x, mask=Window(3, 0))

    shapes = ({2: torch.export.Dim("L", min=8, max=4096)},)
    exported = torch.export.export(Layer(), (random(2, 2, 64, 16),), dynamic_shapes=shapes, strict=False)
    other = random(2, 2, 41, 16, seed=1)
    torch.testing.assert_close(exported.module()(other), Layer()(other))


def learned_biases():
    def loss(x, slopes, table):
        out = attention(x, x, x, mask=Causal(), bias=Alibi(slopes) & RelativePosition(table))
        return (out**2).sum()

    leaves = [t.requires_grad_() for t in (random(2, 4, 11, 8), torch.rand(4), random(4, 9))]
    want = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*leaves), leaves)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


def key_mask_over_nan():
    q, k, v = (random(2, 2, 9, 8, seed=s) for s in range(3))
    there = torch.arange(9) < torch.tensor([[9], [4]])
    k[1, :, 4:] = v[1, :, 4:] = float("nan")

    def run(q, k, v, there):
        return attention(q, k, v, key_mask=there)

    want = run(q, k, v, there)
    assert want.isfinite().all()
    torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(q, k, v, there), want)


def masks_made_inside():
    """Shapes of what the graph makes are numbers, those of its inputs symbols."""

    def run(q):
        third = torch.arange(q.shape[2])[None].expand(2, -1) // 3
        return attention(q, q, q, mask=Segments(third), bias=Alibi.geometric(4))

    q = random(2, 4, 10, 8)
    torch.testing.assert_close(torch.compile(run, backend="eager", fullgraph=True, dynamic=True)(q), run(q))


def dropout():
    x = random(1, 2, 9, 8)

    def run(x):
        return attention(x, x, x, mask=Causal(), dropout=0.5)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.manual_seed(3)
    first = compiled(x)
    assert not torch.equal(first, compiled(x))
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(x), first)


def model(name, padding):
    """A transformers model by name, compiled, against the same with torch's own attention, not compiled."""
    import transformers

    from core_attention import register_with_transformers

    register_with_transformers("core_attention")
    options = TEXT | ({} if name == "Bert" else {"num_key_value_heads": 2})
    options |= {"sliding_window": 4} if name == "Mistral" else {}
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).eval()
    ids = torch.randint(3, 50, (2, 9))
    mask = None if padding == "none" else torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    call = {"input_ids": ids, "attention_mask": mask} | ({} if name == "Bert" else {"use_cache": False})
    real = ... if mask is None else mask.bool()
    with torch.no_grad():
        want = made(**call)[0]
        made.set_attn_implementation("core_attention")
        got = torch.compile(made, backend="aot_eager")(**call)[0]
    torch.testing.assert_close(got[real], want[real], rtol=1e-3, atol=1e-5)


PARTS = {f"lengths of {name}": (lengths, name) for name in FORMS}
PARTS |= {
    "export": (export,),
    "learned biases": (learned_biases,),
    "key mask over NaN": (key_mask_over_nan,),
    "masks made inside": (masks_made_inside,),
    "dropout": (dropout,),
}
PARTS |= {f"{name} with {padding}": (model, name, padding) for name, padding in MODELS}
MORE = {f"{name} with {padding}": (model, name, padding) for name, padding in MORE_MODELS}


def outcome(parts):
    """ "" for each part that is right, else what is wrong."""
    found = {}
    for name, (function, *arguments) in parts.items():
        torch._dynamo.reset()
        try:
            function(*arguments)
            found[name] = ""
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:2000]
    return found


@pytest.fixture(scope="module")
def found(script):
    return script("print(json.dumps(cases.outcome(cases.PARTS)))")


@pytest.mark.parametrize("name", PARTS)
def test_in_a_graph(name, found):
    assert found[name] == ""


@pytest.mark.slow
def test_more_models(script):
    assert not any(script("print(json.dumps(cases.outcome(cases.MORE)))").values())
