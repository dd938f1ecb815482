"""Who predicts needs no trainer: from the verbs that use a model, and from the models, no import leads to training, lazy ones included."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {path.name: path / "src" / path.name for path in ROOT.glob("packages/*") if (path / "src").is_dir()}
TRAINS = {
    "train",
    "sweep",
    "demo",
    "ab",
    "arena",
    "evaluate",
    "study",
}  # verbs that train, or judge with the libraries of measures
TRAINING = {"lightning", "torchmetrics", "core_runtime.training"}
HEAVY = {"torchvision", "transformers"}  # only where a model itself is made of them
NEEDED = {
    "remote_sensing.landuse.model.networks": "the ResNet peers are torchvision's",
    "language_models.model.caching": "the models of this domain are registered with transformers: caches,",
    "language_models.model.causal": "generation,",
    "language_models.model.configs": "configurations,",
    "language_models.model.plain": "the plain twins,",
    "language_models.model.registration": "the Auto classes,",
    "language_models.model.kinds": "a user's own class in them,",
    "language_models.model.folder": "the loading of them,",
    "language_models.model.convert": "and conversion to its own classes",
    "vision_models.detect.model.detectors": "detectors are torchvision's and transformers'",
    "gui_grounding.model.backbone": "Qwen2-VL and Qwen2.5-VL are transformers'",
    "gui_grounding.model.patches": "so is the resizing and cutting of their pictures",
    "explainability.models.loading": "what it explains may be torchvision's or transformers'",
    "explainability.chm_corr.features": "torchvision:NAME is torchvision's,",
    "explainability.chm_corr.matching": "as is the ResNet whose features CHM matches",
    "pathology_mil.features.encoders": "torchvision:NAME and CLAM's ResNet-50 are torchvision's",
    "vision_models.actions.backbones": "torchvision:NAME and folders of transformers' video networks are theirs",
    "vision_language.model.official.var_sink": "the published class is a LLaMA of transformers",
    "core_attention.mechanisms.var_sink.pretrained": "what it changes are models of transformers,",
    "core_attention.pretrained.transformers": "and it has a name there",
    "vision_language.model.multimodal": "LLaVA, Qwen-VL and InternVL are transformers'",
    "vision_language.model.focallens_mllm": "FocalLens-MLLM is its LLaVA,",
    "vision_language.model.focallens_clip": "FocalLens-CLIP its CLIP,",
    "vision_language.model.sentences": "a sentence encoder of a folder its AutoModel,",
    "vision_language.model.tiny": "and the tiny models of tests and demo are its classes",
}


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name → file of every module of a package."""
    root = SOURCES[package]
    modules = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


ALL = {name: path for package in SOURCES for name, path in modules_of(package).items()}


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules that a module imports anywhere but for type checkers, and the packages that these stand in."""
    tree = ast.parse(ALL[name].read_text(encoding="utf-8"))
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    targets: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets.add(node.module)
            targets |= {f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in ALL}
    return frozenset(targets)


def path_to(start: str, forbidden: set[str]) -> list[str]:
    """A chain of imports from a module to a forbidden one, or an empty list."""
    queue, seen = [[start]], {start}
    while queue:
        chain = queue.pop(0)
        for target in sorted(imports_of(chain[-1])):
            banned = target in forbidden or target.split(".")[0] in forbidden or ".training" in target
            if banned and chain[-1] not in NEEDED:
                return [*chain, target]
            if target in ALL and target not in seen and not banned:
                seen.add(target)
                queue.append([*chain, target])
    return []


def starts() -> list[str]:
    """The verbs that use a model, and the rooms of models."""
    names = []
    for name in sorted(ALL):
        parts = name.split(".")
        if parts[0].startswith("core_"):
            continue
        is_verb = len(parts) > 2 and parts[-2] == "commands" and parts[-1] not in TRAINS
        if is_verb or {"model", "models"}.intersection(parts[1:]):
            names.append(name)
    return names


@pytest.mark.parametrize("name", starts())
def test_no_import_leads_to_training(name):
    chain = path_to(name, TRAINING | HEAVY)
    assert not chain, " → ".join(chain)


def test_there_are_verbs_that_use_a_model():
    assert {name.rpartition(".")[2] for name in starts()} >= {"predict", "inspect", "models"}
