"""How heat maps are drawn, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, options


@options
class MapOptions:
    """How a heat map is drawn.

    Attributes:
        scale: n-a shows N × attention × zoom, where 1 is uniform and 1 and above the darkest red; percentile shows ranks.
        zoom: factor of n-a; below 1 shows differences among high values.
        cmap: a colour map of matplotlib.
        alpha: opacity of the colours over the slide.
        blur: smooth over about a tile.
        branches: draw each branch, too.
        top: number of tiles with the most attention to show.
        max_side: longest side of the picture in pixels.
    """

    scale: Literal["n-a", "percentile"] = "n-a"
    zoom: Annotated[float, Above(0)] = 1.0
    cmap: str = "jet"
    alpha: Annotated[float, Between(0, 1)] = 0.4
    blur: bool = False
    branches: bool = False
    top: Annotated[int, AtLeast(1)] = 15
    max_side: Annotated[int, AtLeast(64)] = 1600

    @property
    def legend(self) -> tuple[str, float]:
        """The meaning of the colours, and the value of the highest one."""
        if self.scale == "percentile":
            return "rank of the attention (1: highest)", 1.0
        return f"N × attention (1: uniform; {1 / self.zoom:g} and more: darkest)", 1 / self.zoom
