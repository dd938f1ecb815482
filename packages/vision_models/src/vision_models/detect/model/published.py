"""Published weights of detectors, as data. Imports nothing heavy."""

from core_runtime.models import Published


def _torchvision(name: str, holds: str, size: str, file: str) -> Published:
    return Published(
        name=name,
        holds=holds,
        licence="BSD-3-Clause",
        size=size,
        source=f"download.pytorch.org/models/{file}",
        needs=f"the file, by hand from download.pytorch.org/models/{file}",
        use=f"vision-models detect train FOLDER --detector {name} --weights '{{file}}'",
    )


PUBLISHED = (
    _torchvision("fcos_resnet50_fpn", "FCOS on COCO, 39.2 AP", "124 MB", "fcos_resnet50_fpn_coco-99b0c9b7.pth"),
    _torchvision(
        "fasterrcnn_resnet50_fpn",
        "Faster R-CNN on COCO, 37.0 AP",
        "160 MB",
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    ),
    _torchvision(
        "retinanet_resnet50_fpn", "RetinaNet on COCO, 36.4 AP", "130 MB", "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    ),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "Faster R-CNN on MobileNetV3 at 320 pixels, 22.8 AP",
        "74 MB",
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
    ),
    Published(
        name="detr-resnet-50",
        holds="DETR on COCO, 42.0 AP",
        licence="Apache-2.0",
        size="167 MB",
        source="facebook/detr-resnet-50",
        files=("model.safetensors",),
        needs="network for 'models get', and its config.json beside the file; the extra [transformers]",
        use="vision-models detect train FOLDER --detector FOLDER-OF-'{file}'",
    ),
)
ADVICE = (
    "FeatEnHancer's authors published no weights, and its licence forbids derived works: train one with 'vision-models detect train FOLDER "
    "--out run', from a detector of 'vision-models detect models'."
)
