"""Rasters that tests write."""

from affine import Affine
from rasterio.crs import CRS

from remote_sensing.rasters import open_raster

HERE = Affine(1.25, 0, 2_600_000, 0, -1.25, 1_200_000)
LV95 = CRS.from_epsg(2056)


def write_raster(path, values, *, crs=LV95, transform=HERE, **profile):
    """An array (bands, height, width) or (height, width) as GeoTIFF."""
    values = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "dtype": str(values.dtype), **profile}
    profile |= {"height": values.shape[1], "width": values.shape[2], "crs": crs, "transform": transform}
    with open_raster(path, "w", **profile) as file:
        file.write(values)
    return path
