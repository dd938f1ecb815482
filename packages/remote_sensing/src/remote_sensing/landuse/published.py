"""Published weights for land use, as data. Imports nothing heavy. The models' cards decide about licences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published file of weights.

    Attributes:
        network: value of ``train --network`` that starts from it.
        source: hub repository and the file in it.
    """

    name: str
    network: str
    licence: str
    size: str
    source: str
    file: str = "model.safetensors"

    @property
    def needs(self) -> str:
        return f"network for 'models get {self.name}', or its file for 'train --network {self.network} --weights FILE'"


PUBLISHED = (
    Published("resnet18-imagenet", "resnet18", "BSD-3-Clause", "45 MB", "timm/resnet18.tv_in1k"),
    Published("resnet50-imagenet", "resnet50", "BSD-3-Clause", "100 MB", "timm/resnet50.tv_in1k"),
)
NO_CLASSIFIERS = (
    "No EuroSAT network with balanced attention is published: train one with 'remote-sensing landuse train FOLDER --out run', or convert a "
    "state dict under the published keys with 'remote-sensing landuse models convert FILE --out FOLDER'."
)
