"""EuroSAT's ten classes and their colours on maps and pictures. Imports nothing heavy."""

from collections.abc import Sequence

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
COLOURS = ("#d9b44a", "#1b6e2f", "#9bbf5a", "#5a5a5a", "#b04ab0", "#c8e48a", "#c97a2b", "#d9433b", "#3a8fd9", "#14408c")
NODATA = 255  # the class number of cells without data


def colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class: EuroSAT's classes have their own, others are spread over a colour circle."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    known: dict[str, str] = dict(zip(CLASSES, COLOURS, strict=True))
    spread = colormaps["tab20"]
    return [known.get(name) or to_hex(spread(i % 20)) for i, name in enumerate(classes)]
