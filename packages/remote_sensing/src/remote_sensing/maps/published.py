"""Published weights for map sheets, as data. Imports nothing heavy. The models' own pages decide about licences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        kind: "SAM" (the frozen encoder, needed to train or use MapSAM) or "adapter" (a trained MapSAM beside it).
        hub: hub repository, where it is on one; else `source` says where it is.
    """

    name: str
    kind: str
    licence: str
    size: str
    source: str
    file: str
    hub: str = ""

    @property
    def needs(self) -> str:
        if self.kind == "SAM":
            return f"{self.file} from {self.source}, for 'train --sam FILE'"
        return f"sam_vit_b_01ec64.pth beside it: 'models convert FILE --sam sam_vit_b_01ec64.pth'; network for 'models get {self.name}'"


_SAM = "the model page of facebookresearch/segment-anything"
PUBLISHED = (
    Published("sam-vit-b", "SAM", "Apache-2.0", "375 MB", _SAM, "sam_vit_b_01ec64.pth"),
    Published("sam-vit-l", "SAM", "Apache-2.0", "1.2 GB", _SAM, "sam_vit_l_0b3195.pth"),
    Published("sam-vit-h", "SAM", "Apache-2.0", "2.6 GB", _SAM, "sam_vit_h_4b8939.pth"),
    Published(
        "mapsam-tithe",
        "adapter",
        "as its card says",
        "15.6 MB",
        "hub: ww357/MapSAM-Tithe-Map-Features (building, vegetation, water)",
        "*.pth",
        "ww357/MapSAM-Tithe-Map-Features",
    ),
)
