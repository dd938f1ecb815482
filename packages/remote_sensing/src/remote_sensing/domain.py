"""What `attention-suite` knows of the groups of ``remote-sensing``; imports nothing heavy."""

from core_runtime.domains import Check, Domain

landuse = Domain(
    name="remote-sensing landuse",
    package="remote_sensing.landuse",
    question="What is the land used for? (Sentinel-2 tiles or scenes → balanced attention → classes and a map)",
    claim="remote_sensing.landuse.scenes.claims:claim",
    kinds="EuroSAT tiles and downloads, Sentinel-2 scenes (multispectral GeoTIFF, .SAFE)",
    needs={"rasterio": "tiles and scenes", "torchvision": "ResNets", "lightning": "training", "matplotlib": "pictures"},
)
maps = Domain(
    name="remote-sensing maps",
    package="remote_sensing.maps",
    question="Where are the railways, vineyards or houses on this old map? (sheet → MapSAM → polygons and centre-lines)",
    claim="remote_sensing.maps.sheets.formats:claim",
    kinds="map sheets (GeoTIFF, or a picture with or without world file)",
    needs={
        "rasterio": "sheets",
        "segment_anything": "SAM's parts",
        "pyogrio": "vector files",
        "skimage": "centre-lines",
    },
    notes=[
        Check(
            "SAM's weights",
            True,
            "none is shipped: 'remote-sensing maps models' tells where SAM's checkpoints are; --variant tiny needs none",
        )
    ],
)
