"""The groups of ``remote-sensing`` as the suite sees them. Imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily


def _check_landuse() -> list[Check]:
    return check_modules(
        {"rasterio": "tiles and scenes", "torchvision": "ResNets", "lightning": "training", "matplotlib": "pictures"}
    )


def _check_maps() -> list[Check]:
    modules = {
        "rasterio": "sheets",
        "segment_anything": "SAM's parts",
        "pyogrio": "vector files",
        "skimage": "centre-lines",
    }
    note = "none is shipped: 'remote-sensing maps models' tells where SAM's checkpoints are; --variant tiny needs none"
    return [*check_modules(modules), Check("SAM's weights", True, note)]


landuse = Domain(
    name="remote-sensing landuse",
    question="What is the land used for? (Sentinel-2 tiles or scenes → balanced attention → classes and a map)",
    recognises=lazily("remote_sensing.landuse.scenes.claims:claim"),
    glance=lazily("remote_sensing.landuse.commands.inspect:glance"),
    demo=lazily("remote_sensing.landuse.commands.demo:demo"),
    doctor=_check_landuse,
    app="remote_sensing.cli:app",
    kinds="EuroSAT tiles and downloads, Sentinel-2 scenes (multispectral GeoTIFF, .SAFE)",
)
maps = Domain(
    name="remote-sensing maps",
    question="Where are the railways, vineyards or houses on this old map? (sheet → MapSAM → polygons and centre-lines)",
    recognises=lazily("remote_sensing.maps.sheets.formats:claim"),
    glance=lazily("remote_sensing.maps.commands.inspect:glance"),
    demo=lazily("remote_sensing.maps.commands.demo:demo"),
    doctor=_check_maps,
    app="remote_sensing.cli:app",
    kinds="map sheets (GeoTIFF, or a picture with or without world file)",
)
