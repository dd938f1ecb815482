"""Published weights for map sheets, as data. Imports nothing heavy. The models' own pages decide about licences."""

from core_runtime.models import Published

_SAM = "the model page of facebookresearch/segment-anything"


def _sam(name: str, size: str, file: str) -> Published:
    """SAM's own weights: the frozen encoder, needed to train or use MapSAM."""
    return Published(
        name=name,
        holds=f"SAM's encoder, {file}",
        licence="Apache-2.0",
        size=size,
        source=_SAM,
        needs=f"{file} from {_SAM}, for 'train --sam FILE'",
        use="remote-sensing maps train SHEET.tif --labels LABELS.gpkg --sam {file}",
    )


PUBLISHED = (
    _sam("sam-vit-b", "375 MB", "sam_vit_b_01ec64.pth"),
    _sam("sam-vit-l", "1.2 GB", "sam_vit_l_0b3195.pth"),
    _sam("sam-vit-h", "2.6 GB", "sam_vit_h_4b8939.pth"),
    Published(
        name="mapsam-tithe",
        holds="MapSAM adapters of tithe maps (building, vegetation, water)",
        licence="see its card",
        size="15.6 MB",
        source="ww357/MapSAM-Tithe-Map-Features",
        files=("*.pth",),
        needs="network for 'models get mapsam-tithe'; sam_vit_b_01ec64.pth to convert it",
        use="remote-sensing maps models convert {file} --sam sam_vit_b_01ec64.pth",
    ),
)
