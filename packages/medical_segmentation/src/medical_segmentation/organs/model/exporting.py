"""Models for other runtimes: a MONAI bundle, ONNX, a torch.export program; each is run and compared before it is kept."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.errors import UserError
from core_runtime.folders import writing
from medical_segmentation.organs.model.folder import load_model
from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.model.networks import quiet_monai

TOLERANCE = 1e-4  # largest difference of logits that is taken for the same


def export_model(folder: str, out: Path, form: str) -> dict[str, Any]:
    """Exports a model folder.

    Args:
        folder: the model folder.
        out: a folder for a bundle, a file otherwise.
        form: "bundle", "onnx" or "torch".

    Returns:
        What was written and how far its outputs are from the model's.

    Raises:
        UserError: an extra is missing, or the outputs differ.
    """
    model = load_model(folder)
    network = model.networks[0].eval()
    sides = model.preparation.window
    example = torch.rand(2, len(model.channels) * model.preparation.slices, *sides)
    with torch.inference_mode():
        expected = network(example)
    if form == "bundle" and model.preparation.slices > 1:
        raise UserError(
            "MONAI's slice inferer gives a network one slice, this 2.5-D model needs its neighbours as well",
            "--form torch or --form onnx exports the network",
        )
    if form == "bundle":
        difference = _bundle(model, network, example, expected, out)
    elif form == "onnx":
        difference = _onnx(network, example, expected, out)
    else:
        difference = _program(network, example, expected, out)
    return {"written": str(out), "form": form, "input": list(example.shape), "largest difference": f"{difference:.2g}"}


def _check(ours: Tensor, expected: Tensor, what: str) -> float:
    difference = float((ours - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"the {what} gives other outputs than the model (by {difference:.3g})",
            "this is a defect of the export: please report it",
        )
    return difference


def _traced(network: nn.Module, example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (example,), strict=False)


def _program(network: nn.Module, example: Tensor, expected: Tensor, out: Path) -> float:
    program = _traced(network, example)
    with writing(out) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like another ending, which the temporary name lacks
        torch.export.save(program, part)
        with torch.inference_mode():
            return _check(torch.export.load(part).module()(example), expected, "torch.export program")


def _onnx(network: nn.Module, example: Tensor, expected: Tensor, out: Path) -> float:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"ONNX needs {error.name}", "pip install 'attention-suite-medical-segmentation[onnx]'"
        ) from None
    with writing(out) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(part),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(part.read_bytes(), providers=["CPUExecutionProvider"])
        (ours,) = session.run(None, {"image": example.numpy()})
        return _check(torch.from_numpy(ours), expected, "ONNX file")


def _bundle(model: OrganModel, network: nn.Module, example: Tensor, expected: Tensor, out: Path) -> float:
    """``configs/``, ``models/``, ``docs/``, LICENSE, as MONAI lays a bundle out."""
    import numpy as np

    with quiet_monai():
        import monai
        from monai.bundle.config_parser import ConfigParser
    with writing(out) as part:
        for name in ("configs", "models", "docs"):
            (part / name).mkdir(parents=True)
        torch.save(network.state_dict(), part / "models" / "model.pt")
        assert model.path is not None
        shutil.copytree(model.path, part / "models" / "folder")
        (part / "configs" / "metadata.json").write_text(
            json.dumps(metadata(model, example, monai.__version__, np.__version__), indent=2)
        )
        (part / "configs" / "inference.json").write_text(json.dumps(inference_config(model), indent=2))
        (part / "configs" / "logging.conf").write_text(LOGGING)
        (part / "docs" / "README.md").write_text(README.format(classes=", ".join(model.classes)))
        (part / "docs" / "data_license.txt").write_text("See the licence of the data that the model was trained on.\n")
        (part / "LICENSE").write_text("Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0\n")
        parser = ConfigParser()
        parser.read_config(str(part / "configs" / "inference.json"))
        parser["bundle_root"] = str(part)
        parser["device"] = "cpu"
        loaded = parser.get_parsed_content("network")
        with torch.inference_mode():
            return _check(loaded.eval()(example), expected, "bundle")


def metadata(model: OrganModel, example: Tensor, monai_version: str, numpy_version: str) -> dict[str, Any]:
    """metadata.json, as MONAI's `verify_metadata` asks for it: every field that the bundles of MONAI's model zoo share."""
    sides = list(example.shape[2:])
    is_window = model.preparation.scheme == "window"
    scaled = "of mean 0 and deviation 1" if model.preparation.scheme == "zscore" else "scaled to [0, 1]"
    classes = ", ".join(f"{value} is {name}" for value, name in enumerate(model.classes))
    channels = {str(number): name for number, name in enumerate(model.channels * model.preparation.slices)}
    common = {"type": "image", "num_channels": example.shape[1], "spatial_shape": sides, "is_patch_data": True}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported from a model folder"},
        "monai_version": monai_version,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": numpy_version,
        "required_packages_version": {"attention-suite-medical-segmentation": "0.1.0", "pytorch-ignite": "0.4.11"},
        "name": "Organs by guided attention",
        "task": "Segmentation of organs",
        "description": "Multi-scale self-guided attention, or a peer in the same harness.",
        "authors": "attention-suite",
        "copyright": "see the licence of the training data",
        "data_source": model.provenance.get("trained_on", {}).get("layout", "not recorded"),
        "data_type": "nibabel",
        "image_classes": f"{len(model.channels)} channel(s), {scaled}",
        "label_classes": f"single channel, {classes}",
        "pred_classes": f"{len(model.classes)} channels, one for each class: {classes}",
        "intended_use": "Research only; not a medical device.",
        "references": [
            "Sinha and Dolz, Multi-scale self-guided attention for medical image segmentation, arXiv:1906.02849"
        ],
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "hounsfield" if is_window else "magnitude",
                    "modality": model.channels[0],
                    "dtype": "float32",
                    "value_range": [] if model.preparation.scheme == "zscore" else [0, 1],  # deviations have no ends
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "segmentation",
                    "num_channels": len(model.classes),
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "channel_def": {str(number): name for number, name in enumerate(model.classes)},
                }
            },
        },
    }


def inference_config(model: OrganModel) -> dict[str, Any]:
    """inference.json: the network from its folder, MONAI's transforms as our preparation does them, and its sliding windows."""
    preparation = model.preparation
    transforms: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    ]
    if preparation.scheme == "window":
        transforms.append(
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": preparation.low,
                "a_max": preparation.high,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            }
        )
    elif preparation.scheme == "zscore":
        transforms.append({"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True})
    else:
        transforms.append({"_target_": "ScaleIntensityd", "keys": "image", "channel_wise": True})
    spacing = list(preparation.spacing)
    if preparation.dims == 2:
        spacing[preparation.axis] = 0  # slices are taken as they are
    if any(spacing):
        # 0 leaves an axis as it is, here and there
        transforms.append({"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"})
    if preparation.dims == 2:
        inferer: dict[str, Any] = {
            "_target_": "SliceInferer",
            "roi_size": [-1, -1],  # whole slices, as `predict` takes them
            "spatial_dim": preparation.axis,
        }
    else:
        inferer = {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(preparation.window),
            "overlap": 0.25,
            "mode": "gaussian",
            "sw_batch_size": 1,
        }
    return {
        "imports": ["$import glob", "$from medical_segmentation.organs.model.folder import load_model"],
        "bundle_root": ".",
        "device": "$'cuda' if __import__('torch').cuda.is_available() else 'cpu'",
        "images": "$sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))",
        "output_dir": "$@bundle_root + '/eval'",
        "network": "$load_model(@bundle_root + '/models/folder', device=@device).networks[0]",
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": inferer,
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""
README = """# Organs by guided attention

Classes: {classes}. Put volumes into `images/` and run

    python -m monai.bundle run --config_file configs/inference.json --bundle_root .

For research, not for diagnosis.
"""
