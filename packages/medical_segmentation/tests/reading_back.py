"""DICOM segmentations as dcmqi, an independent program, reads them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from medical_segmentation.volumes.opening import open_volume

# beside this Python, whatever the PATH is
DCMQI = shutil.which("segimage2itkimage", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def places_of(affine, indices, grid):
    """The voxels of our grid at the places of another's, which must be voxels of ours."""
    world = affine @ np.c_[indices, np.ones(len(indices))].T
    ours = (np.linalg.inv(grid.affine) @ world)[:3]
    places = np.round(ours).astype(int)
    assert np.abs(ours - places).max() < 0.01
    return tuple(places)


def read_by_dcmqi(path, grid, out, *, form="binary"):
    """The labels of a segmentation on a grid."""
    out.mkdir()
    command = [str(DCMQI), "--inputDICOM", path, "--outputDirectory", out, "-t", "nii"]
    subprocess.run(command, check=True, capture_output=True)
    labels = np.zeros(grid.shape, np.uint8)
    # one file per segment, or one of all where they share a map
    for file in sorted(out.glob("*.nii.gz")):
        read = open_volume(file)
        indices = np.argwhere(read.array > 0)
        if not len(indices):
            continue  # a segment of which nothing was found
        values = read.array[tuple(indices.T)]
        places = places_of(read.geometry.affine, indices, grid)
        labels[places] = values if form == "labelmap" else int(file.name.split(".")[0])
    return labels
