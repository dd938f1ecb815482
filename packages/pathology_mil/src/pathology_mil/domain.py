"""Pathology as the suite sees it. Imports nothing heavy: heavy modules are imported where they are used."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from pathology_mil.slides.formats import claim


def doctor() -> list[Check]:
    """Checks whether slides can be read, pictures drawn and networks run, and tells which encoders need weights."""
    needed = {
        "openslide": "slides (pip install openslide-bin openslide-python)",
        "cv2": "tissue",
        "h5py": "tiles and features",
        "timm": "encoders",
        "lightning": "training",
        "matplotlib": "pictures",
    }
    weights = "none are shipped: colour-texture needs none, timm: and torchvision: take --weights FILE"
    return [*check_modules(needed), Check("encoder weights", True, weights)]


domain = Domain(
    name="pathology-mil",
    question="What is on this slide, and where? (whole slide → tiles → features → ACMIL → label and heat map)",
    recognises=claim,
    glance=lazily("pathology_mil.commands.inspect:glance"),
    demo=lazily("pathology_mil.commands.demo:demo"),
    doctor=doctor,
    app="pathology_mil.cli:app",
    kinds="whole slides (.svs, .ndpi, .mrxs, .scn, .vms, .bif, tiled .tif, .dcm), feature files (.h5)",
)
