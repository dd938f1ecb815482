"""Pathology as the suite sees it. Imports nothing heavy: what a function needs is imported when it is called."""

from pathlib import Path

from core_runtime.suite import Check, DemoResult, Domain, Glance
from pathology_mil.slides.formats import SLIDE_SUFFIXES

# endings that other fields use, too: the content decides
_SHARED = {".tif", ".tiff", ".dcm"}
_OURS = SLIDE_SUFFIXES - _SHARED - {".png", ".jpg", ".jpeg"}
_GEO_KEYS = 34735


def recognises(path: Path) -> str | None:
    """Slides by their ending, TIFF and DICOM by their content, feature files by their keys."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return None
    if suffix in _OURS:
        return "whole-slide image"
    if suffix in _SHARED:
        return "whole-slide image" if _opens(path, suffix) else None
    if suffix in (".h5", ".hdf5"):
        return _feature_file(path)
    return None


def _opens(path: Path, suffix: str) -> bool:
    import openslide

    try:
        if openslide.OpenSlide.detect_format(path) is None:
            return False
    except openslide.OpenSlideError:
        return False
    if suffix == ".dcm":
        return True
    from PIL import Image

    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            return _GEO_KEYS not in tags and tags.get(277, 1) in (3, 4)  # colour, and not a map
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


def _feature_file(path: Path) -> str | None:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "features" in file and "coords" in file:
                return "features of a slide"
            if "coords" in file:
                return "tiles of a slide"
            first = next(iter(file.values()), None)
            return "features of slides" if isinstance(first, h5py.Group) and "feat" in first else None
    except OSError:
        return None


def glance(path: Path) -> Glance:
    from pathology_mil.commands.inspect import glance

    return glance(path)


def demo(out: Path, full: bool) -> DemoResult:
    from pathology_mil.commands.demo import demo

    return demo(out, full=full)


def doctor() -> list[Check]:
    """Whether slides can be read, pictures drawn, networks run, and which encoders need weights."""
    checks = []
    try:
        import openslide

        checks.append(
            Check("OpenSlide", True, f"library {openslide.__library_version__}, {openslide.__version__} from Python")
        )
    except (ImportError, OSError) as error:
        checks.append(Check("OpenSlide", False, f"{error}; pip install openslide-bin openslide-python"))
    for module, purpose in (
        ("cv2", "tissue"),
        ("h5py", "tiles and features"),
        ("timm", "encoders"),
        ("lightning", "training"),
    ):
        try:
            found = __import__(module)
            checks.append(Check(module, True, f"{purpose}, {getattr(found, '__version__', 'version unknown')}"))
        except ImportError as error:
            checks.append(Check(module, False, f"{purpose}: {error}"))
    import torch

    device = "CUDA" if torch.cuda.is_available() else "MPS" if torch.backends.mps.is_available() else "CPU only"
    checks.append(Check("torch", True, f"{torch.__version__}, {device}"))
    checks.append(
        Check(
            "encoder weights",
            True,
            "none are shipped: colour-texture needs none, timm: and torchvision: take --weights FILE",
        )
    )
    return checks


domain = Domain(
    name="pathology-mil",
    question="What is on this slide, and where? (whole slide → tiles → features → ACMIL → label and heat map)",
    recognises=recognises,
    glance=glance,
    demo=demo,
    doctor=doctor,
    app="pathology_mil.cli:app",
    kinds="whole slides (.svs, .ndpi, .mrxs, .scn, .vms, .bif, tiled .tif, .dcm), feature files (.h5)",
)
