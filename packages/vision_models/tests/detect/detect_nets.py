"""Small detectors for the tests."""

import json

from vision_models.detect.model.options import DetectorOptions

TINY = DetectorOptions(
    enhancer_width=4,
    detector="fcos",
    backbone="resnet10t",
    settings=("channels=8/8/16/16", "stem_width=8"),
    channels=32,
    size=48,
)
BACKBONE = {
    "backbone": "resnet10t",
    "settings": json.dumps({"channels": [8, 8, 16, 16], "stem_width": 8}),
    "channels": 32,
}
