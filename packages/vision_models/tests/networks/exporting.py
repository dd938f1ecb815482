"""Exports a small network of every family with a batch of any size, and compares; run as a script, without the import hook of the shape checks.

Prints one line per network: its name, and "ok" or what went wrong. With the argument ``onnx`` as ONNX files, run by onnxruntime.
"""

import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import vision_models  # noqa: F401 - registers the networks


def main() -> None:
    spec = importlib.util.spec_from_file_location("small", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    for name, options in small.SMALL.items():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **options).eval()
        x = torch.randn(2, 3, 64, 64)
        try:
            program = exported(model, x)
            for pictures in (x, x[:1]):
                torch.testing.assert_close(program(pictures), model(pictures), rtol=1e-4, atol=1e-4)
            print(name, "ok", flush=True)
        except Exception as error:
            print(name, type(error).__name__, str(error).splitlines()[0], flush=True)


def exported(model: torch.nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What computes the same from the exported graph."""
    sizes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    if "onnx" not in sys.argv:
        return torch.export.export(model, (x,), dynamic_shapes=sizes).module()
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=True, dynamic_shapes=sizes, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name
    return lambda pictures: torch.from_numpy(session.run(None, {name: pictures.numpy()})[0])


if __name__ == "__main__":
    main()
