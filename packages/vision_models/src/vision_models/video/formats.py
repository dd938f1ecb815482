"""Which paths are models built like Wan. Imports nothing heavy."""

import json
from pathlib import Path

from core_runtime.domains import Claim

CLASSES = ("WanTransformer3DModel", "WanVACETransformer3DModel", "SmallWan")


def claim(path: Path) -> Claim | None:
    """How sure this group is that a folder, or its config.json, is its own: Wan-like models alone."""
    claimed = _claim_model(path)
    if claimed is None and path.is_dir():
        # one model beside clips, as 'sample' writes it
        inside = [found for folder in path.iterdir() if folder.is_dir() and (found := _claim_model(folder)) is not None]
        if len(inside) == 1:
            return Claim(inside[0].kind, 0.75, inside[0].evidence)
    return claimed


def _claim_model(path: Path) -> Claim | None:
    places = (path,) if path.name == "config.json" else (path / "config.json", path / "transformer" / "config.json")
    for config in places:
        try:
            if not config.is_file() or config.stat().st_size > 1_000_000:
                continue
            content = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(content, dict):
            continue
        name = content.get("_class_name", content.get("class"))
        if name in CLASSES:
            return Claim("video transformer", 0.95, f"its config.json describes a {name}")
    return None
