"""What a map's files say of themselves."""

from types import SimpleNamespace

import numpy as np
import rasterio.transform
from rasterio.io import MemoryFile

from remote_sensing.maps.model.inference import NODATA, _name_classes, shares_of_area


def test_every_class_has_its_name_also_beyond_the_colours():
    classes = tuple(f"kind {i}" for i in range(1, 13))
    sizes = {
        "driver": "GTiff",
        "width": 4,
        "height": 4,
        "dtype": "uint8",
        "transform": rasterio.transform.from_origin(0, 4, 2, 2),
    }
    with (
        MemoryFile() as mask_memory,
        MemoryFile() as probability_memory,
        mask_memory.open(**sizes, count=1) as mask,
        probability_memory.open(**sizes, count=len(classes) + 1) as probability,
    ):
        _name_classes(mask, probability, SimpleNamespace(classes=classes, notice="trained on drawings only"))
        tags = mask.tags()
        assert [tags[f"CLASS_{number}"] for number in range(13)] == ["background", *classes]
        assert tags["NOTICE"] == "trained on drawings only"
        assert probability.descriptions[0] == "probability of kind 1 (0 to 254)"
        assert probability.descriptions[-1] == "unsure"


def test_shares_are_of_the_pixels_with_data():
    counts = np.zeros(256, np.int64)
    counts[[0, 1, 2, NODATA]] = 60, 30, 10, 900
    assert shares_of_area(counts, ["railways", "water"]) == {"railways": 0.3, "water": 0.1}
    counts[:NODATA] = 0
    assert shares_of_area(counts, ["railways", "water"]) == {"railways": 0.0, "water": 0.0}
