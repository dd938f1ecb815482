"""The groups of ``remote-sensing`` as the suite sees them. Imports nothing heavy: what a function needs is imported when it is called."""

from pathlib import Path

from core_runtime.suite import Check, DemoResult, Domain, Glance


def _recognises_land(path: Path) -> str | None:
    if not path.exists():
        return None
    from remote_sensing.landuse.inspection import recognises

    return recognises(path)


def _glance_land(path: Path) -> Glance:
    from remote_sensing.landuse.inspection import glance

    return glance(path)


def _demo_land(out: Path, full: bool) -> DemoResult:
    from remote_sensing.landuse.demo import run_demo

    return run_demo(out, full)


def _recognises_map(path: Path) -> str | None:
    if not path.exists():
        return None
    from remote_sensing.maps.inspection import recognises

    return recognises(path)


def _glance_map(path: Path) -> Glance:
    from remote_sensing.maps.inspection import glance

    return glance(path)


def _demo_map(out: Path, full: bool) -> DemoResult:
    from remote_sensing.maps.demo import run_demo

    return run_demo(out, full)


def _doctor_land() -> list[Check]:
    return _doctor(("rasterio", "tiles and scenes"), ("torchvision", "ResNets"), ("lightning", "training"))


def _doctor_map() -> list[Check]:
    needed = ("segment_anything", "SAM's parts"), ("pyogrio", "vector files"), ("skimage", "centre-lines")
    note = "none is shipped: 'remote-sensing maps models' says where SAM's checkpoints are; --variant tiny needs none"
    return [*_doctor(("rasterio", "sheets"), *needed), Check("SAM's weights", True, note)]


def _doctor(*modules: tuple[str, str]) -> list[Check]:
    checks = []
    for module, purpose in modules:
        try:
            found = __import__(module)
            version = getattr(found, "__version__", "version unknown")
            checks.append(Check(module, True, f"{purpose}, {version}"))
        except ImportError as error:
            checks.append(Check(module, False, f"{purpose}: {error}"))
    import torch

    device = "CUDA" if torch.cuda.is_available() else "MPS" if torch.backends.mps.is_available() else "CPU only"
    return [*checks, Check("torch", True, f"{torch.__version__}, {device}")]


landuse = Domain(
    name="remote-sensing landuse",
    question="What is the land used for? (Sentinel-2 tiles or scenes → balanced attention → classes and a map)",
    recognises=_recognises_land,
    glance=_glance_land,
    demo=_demo_land,
    doctor=_doctor_land,
    app="remote_sensing.cli:app",
    kinds="EuroSAT tiles and downloads, Sentinel-2 scenes (multispectral GeoTIFF, .SAFE)",
)
maps = Domain(
    name="remote-sensing maps",
    question="Where are the railways, vineyards or houses on this old map? (sheet → MapSAM → polygons and centre-lines)",
    recognises=_recognises_map,
    glance=_glance_map,
    demo=_demo_map,
    doctor=_doctor_map,
    app="remote_sensing.cli:app",
    kinds="map sheets (GeoTIFF, or a picture with or without world file)",
)
