"""What `verify` says of a spoiled case of a real component: one of each system, whatever is registered."""

import json

import pytest
import torch
from replay import committed_cases
from safetensors.torch import load_file, save_file

from core_attention.golden.replay import verify


def one_of_each_system() -> list:
    """The first committed case of each system that records gradients of its weights."""
    found = {}
    for path in committed_cases():
        if path.parent.name not in found and any(
            key.startswith("grad/state_dict/") for key in load_file(path.with_suffix(".safetensors"))
        ):
            found[path.parent.name] = path
    return list(found.values())


@pytest.fixture(params=one_of_each_system(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def spoiled(request, tmp_path):
    """Writes the case with changed fields or tensors (None leaves one out) and says what `verify` finds."""
    fields = json.loads(request.param.read_text())
    tensors = load_file(request.param.with_suffix(".safetensors"))

    def ask(fields_changed=None, tensors_changed=None) -> str:
        path = tmp_path / "case.json"
        path.write_text(json.dumps(fields | (fields_changed or {})))
        changed = {key: t for key, t in (tensors | (tensors_changed or {})).items() if t is not None}
        save_file(changed, path.with_suffix(".safetensors"))
        return verify(path).status

    ask.fields, ask.tensors = fields, tensors
    return ask


def test_spoiled_cases_are_caught(spoiled):
    tensors = spoiled.tensors
    assert spoiled() == "ok"
    graded = [key for key in tensors if key.startswith("grad/state_dict/")]
    steepest = max(graded, key=lambda key: float(tensors[key].abs().max()))
    weight = steepest.removeprefix("grad/")
    step = 0.1 * tensors[steepest] / tensors[steepest].abs().max()
    assert spoiled(None, {weight: tensors[weight] + step}) == "differs"
    assert spoiled(None, {steepest: tensors[steepest] * 1.1}) == "differs"
    assert spoiled(None, {weight: None, steepest: None}) == "unusable"
    assert spoiled(None, {"state_dict/no.such.key": torch.ones(2)}) == "unusable"
    assert spoiled(None, {"grad/state_dict/no.such.key": torch.ones(2)}) == "unusable"
    assert spoiled({"component": "NoSuchComponent"}) == "unknown"
    objective = spoiled.fields["grad_of"]
    name = next(iter(objective))
    if objective[name] == "probe":
        probe = tensors[f"probe/{name}"]
        assert spoiled(None, {f"probe/{name}": probe * 1.5}) == "differs"
    else:
        assert spoiled({"grad_of": objective | {name: objective[name] * 1.5}}) == "differs"
    for key, tensor in tensors.items():
        if key.startswith("output/") and tensor.dtype in (torch.bool, torch.uint8):
            flipped = tensor.clone()
            flipped.view(-1)[0] = ~flipped.view(-1)[0] if tensor.dtype == torch.bool else flipped.view(-1)[0] ^ 1
            assert spoiled(None, {key: flipped}) == "differs", key
