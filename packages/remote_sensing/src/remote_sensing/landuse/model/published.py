"""Published weights for land use, as data. Imports nothing heavy. Licences are as on the models' cards, which decide."""

from dataclasses import dataclass

from core_runtime.models import Published


@dataclass(frozen=True, kw_only=True)
class PublishedNetwork(Published):
    """Weights from which a network starts.

    Attributes:
        network: the value of ``train --network`` that takes them.
    """

    network: str = ""


def _resnet(depth: int, size: str) -> PublishedNetwork:
    network = f"resnet{depth}"
    return PublishedNetwork(
        name=f"{network}-imagenet",
        holds=f"ResNet-{depth} of ImageNet, the peer of fine-tuning",
        licence="BSD-3-Clause",
        size=size,
        source=f"timm/{network}.tv_in1k",
        files=("model.safetensors",),
        network=network,
        needs=f"network for 'models get {network}-imagenet', or its file for 'train --network {network} --weights FILE'",
        use=f"remote-sensing landuse train FOLDER --network {network} --weights '{{file}}'",
    )


PUBLISHED = (_resnet(18, "45 MB"), _resnet(50, "100 MB"))
NO_CLASSIFIERS = (
    "No EuroSAT network with balanced attention is published: train one with 'remote-sensing landuse train FOLDER --out run', or convert a "
    "state dict under the published keys with 'remote-sensing landuse models convert FILE --out FOLDER'."
)
