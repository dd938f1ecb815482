import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pathology_mil.model.official_slides import components

COMMITTED = Path(__file__).parent / "golden/acmil"
CASES = ["clam_patch_cmu_biopsy", "clam_patch_tcga_otsu", "clam_heatmap"]


@pytest.mark.parametrize("name", CASES)
def test_golden(name, shared):
    path = next(p for f in (COMMITTED, shared / "papers/acmil/golden") if (p := f / f"{name}.json").exists())
    case = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    inputs = {k.removeprefix("input/"): v for k, v in tensors.items() if k.startswith("input/")}
    inputs["slide"] = shared / case["input_files"]["slide"]
    got = components[case["component"]].run(None, inputs, config=case["config"], mode="eval")
    for key, value in case.get("output_json", {}).items():
        assert got[key] == value
    for key, value in tensors.items():
        if key.startswith("output/"):
            torch.testing.assert_close(got[key.removeprefix("output/")], value, rtol=0, atol=0)
