"""What public functions and layers return is documented in one way.

The signature says the shape, or the docstring's section "Returns:" does. Where a docstring lists arguments, or more than one thing comes back, there is
such a section; elsewhere the docstring's first line says what comes back.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import core_attention

ROOT = Path(core_attention.__file__).parent
ROOMS = ("mechanisms", "published", "parts", "routed", "pooling", "factorised", "pretrained")
# what is called by the package's own routines alone: kernels, operators, pieces of one computation
INTERNAL = {
    *("factorised/tiles.py", "factorised/triton.py", "factorised/flex.py", "routed/tiles.py", "routed/tile.py"),
    *("routed/triton.py", "routed/triton_kernels.py", "routed/ops.py", "routed/flex.py", "pooling/stream.py"),
    *("pooling/triton.py", "pretrained/padding.py", "pretrained/transformers.py"),
}
FILES = [ROOT / "attention.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Public functions of a file, and `forward` of its public layers."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if not any("overload" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "forward":
                    yield f"{node.name}.forward", method


def problem(function: ast.FunctionDef) -> str | None:
    """What the documentation of a function's tensors lacks."""
    if function.returns is None or "Tensor" not in ast.unparse(function.returns):
        return None
    returned = ast.unparse(function.returns)
    text = ast.get_docstring(function)
    if not text:
        return "has no docstring"
    if "Returns:" in text:
        return None
    if "Args:" in text:
        return "lists its arguments and has no section Returns:"
    if returned.startswith("tuple") or "|" in returned:
        return "returns more than one thing and has no section Returns:"
    if returned == "Tensor":
        return "says the shape neither in its signature nor under Returns:"
    return None


def documented(path: Path) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return name not in INTERNAL and path.name not in ("official.py", "declaration.py")


@pytest.mark.parametrize("path", filter(documented, FILES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_returned_is_said(path):
    problems = {name: problem(function) for name, function in functions(ast.parse(path.read_text(encoding="utf-8")))}
    assert not {name: what for name, what in problems.items() if what}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(x) -> Tensor: ...", "no docstring"),
        ("def f(x) -> Tensor:\n    'The output.'", "neither in its signature"),
        (
            "def f(x) -> Float[Tensor, 'a']:\n    '''The output.\n\n    Args:\n        x: it.\n    '''",
            "lists its arguments",
        ),
        ("def f(x) -> tuple[Tensor, Tensor]:\n    'Both.'", "more than one thing"),
    ],
)
def test_what_is_not_said_is_found(source, message):
    (function,) = ast.parse(source).body
    assert message in problem(function)
