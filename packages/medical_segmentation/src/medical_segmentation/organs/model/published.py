"""Published weights for organs, as data. Imports nothing heavy."""

from core_runtime.models import Published

PUBLISHED = (
    Published(
        name="msdual",
        holds="the multi-scale self-guided network of the paper (CHAOS MRI, five classes)",
        licence="none: the repository has no licence file",
        size="418 MB",
        source="the authors released no weights",
        needs="an own checkpoint of their training script, for 'models convert'",
        use="medical-segmentation organs models convert '{file}' --out model",
    ),
    Published(
        name="resnext101-imagenet",
        holds="ResNeXt-101 32x8d of ImageNet, a start for the backbone",
        licence="BSD-3-Clause",
        size="356 MB",
        source="timm/resnext101_32x8d.tv_in1k",
        files=("model.safetensors",),
        needs="network for 'train --pretrained', which fetches it by itself",
        use="medical-segmentation organs train FOLDER --pretrained",
    ),
)
ADVICE = (
    "No weights of the self-guided network are published: train one with 'medical-segmentation organs train FOLDER --out run', or convert a "
    "checkpoint of the authors' script with 'medical-segmentation organs models convert FILE --out FOLDER'."
)
